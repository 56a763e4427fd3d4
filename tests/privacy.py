"""The search for what must not leave a sealed value, in each way in which it may turn up; and bodies that carry people."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote

#: Bodies that are refused carry people too.
REFUSED = (
    b'{"triggerEvent":"BOOKING_CREATED","createdAt":"Quillfeather","payload":{"uid":"Canary"}}',
    b'{"Quillfeather":"Canary"}',
    b'{"type":"payment.received","timestamp":"2026-11-24T08:00:00Z","data":{"Quillfeather":"Canary"}}',
    b'{"type":"Quillfeather Canary","timestamp":"2026-11-24T08:00:00Z","data":{}}',
    b'{"update_id":1,"message":{"Quillfeather":"Canary"}}',
    b'Quillfeather, Canary: not JSON',
    b'{"triggerEvent":"Quillfeather Canary"}',
)  # fmt: skip
#: Forgeries of every channel that carry a canary where the signature or secret stands.
FORGED = {
    "X-Cal-Signature-256": "Canary",
    "X-Telegram-Bot-Api-Secret-Token": "Canary",
    "X-Max-Bot-Api-Secret": "Canary",
    "X-Hub-Signature-256": "sha256=Canary",
    "webhook-id": "Canary",
    "webhook-signature": "v1,Canary",
}


def forms(word: str) -> list[bytes]:
    """The ways in which a word may turn up: plain, escaped as JSON, Python or a URL does it, in base64 at each offset,
    in hex."""
    raw = word.encode()
    escaped = json.dumps(word)[1:-1].encode()
    shifted = [base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [
        raw,
        escaped,
        raw.hex().encode(),
        repr(raw)[2:-1].encode(),
        quote(word).encode(),
        *(part for part in shifted if len(part) >= 8),
    ]


def leaks(text: bytes, words: Iterable[str]) -> list[str]:
    """Those of the words that stand in the text, in any form and in capitals or not."""
    lowered = text.lower()
    return [word for word in words if any(form in text or form.lower() in lowered for form in forms(word))]
