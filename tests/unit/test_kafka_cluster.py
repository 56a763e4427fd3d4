"""Promise: the name of a new cluster is one that Kafka's tools take."""

from __future__ import annotations

import base64
from uuid import UUID

from turnout_cli.embedded.kafka import cluster_id


def test_a_name_with_a_leading_dash_is_never_given_to_kafkas_tools() -> None:
    dashed, plain = UUID(bytes=b"\xf8" + bytes(15)), UUID(int=1)
    assert base64.urlsafe_b64encode(dashed.bytes).startswith(b"-")
    candidates = iter((dashed, plain))
    assert cluster_id(lambda: next(candidates)) == "AAAAAAAAAAAAAAAAAAAAAQ"
