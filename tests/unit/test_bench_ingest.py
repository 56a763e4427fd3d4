"""The parts of `bench ingest` that judge: a wrong one would print a good figure of a bad run."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter

import pytest
from bench.ingest_bodies import requests
from bench.ingest_figures import Measured, cpu_table, figures, is_flat, middle, ratio, spread
from bench.ingest_load import Outcome, _is_whole
from bench.system import SECRET

MIB = 2**20


def test_ratio_compares_the_windows_of_one_round() -> None:
    """The machine was half as fast in the second and third round: the ratio is not to say so."""
    ours = [Measured(4000), Measured(2000), Measured(2100)]
    naive = [Measured(1000), Measured(500), Measured(500)]

    assert ratio(ours, naive) == 4.0


def test_spread_tells_the_worst_round_too() -> None:
    assert spread([900.4, 1200, 100]) == {"min": 100, "median": 900, "max": 1200}


def test_cpu_of_the_generator_is_no_cost_of_the_servers() -> None:
    rounds = [Measured(1, {"ingest": 200.0, "postgres": 50.0, "generator": 20.0})] * 3

    assert cpu_table(rounds) == {"ingest": 200, "postgres": 50, "generator": 20, "servers_together": 250}


def test_case_without_storage_has_no_commits() -> None:
    assert middle([Measured(1)], "rows_per_commit") is None
    assert "no_storage" not in figures({"no_storage": [Measured(1)]})["storage"]


def test_memory_that_fills_once_is_flat() -> None:
    assert is_flat([100 * MIB, 150 * MIB, 150 * MIB, 151 * MIB, 152 * MIB, 150 * MIB, 152 * MIB, 153 * MIB])


def test_memory_that_grows_with_every_sample_is_not_flat() -> None:
    """A leak of 30 bytes a webhook: 1.5 MB every 50,000."""
    assert not is_flat([round((100 + 1.5 * number) * MIB) for number in range(10)])


def test_memory_is_not_judged_on_a_few_samples() -> None:
    with pytest.raises(ValueError, match="seven"):
        is_flat([MIB] * 6)


def test_every_request_is_another_booking_rightly_signed() -> None:
    bodies = []
    for request in requests(["a", "b"], 5, 40):
        head, _, body = request.partition(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest().encode()

        assert headers[b"X-Cal-Signature-256"] == signature
        assert int(headers[b"Content-Length"]) == len(body)
        bodies.append(json.loads(body))

    assert len({body["payload"]["uid"] for body in bodies}) == 40
    assert len({body["payload"]["attendees"][0]["phoneNumber"] for body in bodies}) == 40
    assert requests(["a", "b"], 5, 1) == requests(["a", "b"], 5, 40)[:1]


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n", False),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nwro", False),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nwrong", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_answer_counts_when_it_is_whole(answer: bytes, whole: bool) -> None:
    assert _is_whole(answer) is whole


@pytest.mark.parametrize("other", [b"503", b"cut", b"401"])
def test_one_refused_webhook_spoils_the_window(other: bytes) -> None:
    assert Outcome(Counter({b"202": 1000})).all_accepted
    assert not Outcome(Counter({b"202": 1000, other: 1})).all_accepted
