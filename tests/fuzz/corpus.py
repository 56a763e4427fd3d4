"""The corpus: inputs that reach different code, one file a target and channel, a base64 text a line.

Every test run replays it; `just nightly` grows from it, and `python -m tests.fuzz.corpus` takes in what was found.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path

from tests.fuzz.targets import PROOF_HERE, SECRET_HERE
from tests.webhook_fixtures import body_of, names

FOLDER = Path(__file__).parent / "corpus"
#: Choices of the target `verify`: no proof, a genuine one, one spoilt, one cut, one of another time.
SPOILT = (0, 1, 3, 5, 9)


def file_of(target: str, channel: str) -> Path:
    return FOLDER / f"{target}-{channel}.txt"


def kept(target: str, channel: str) -> list[bytes]:
    """What is committed; empty for a channel that was not fuzzed yet."""
    file = file_of(target, channel)
    return [base64.b64decode(line) for line in file.read_text().split()] if file.exists() else []


def seeds(target: str, channel: str) -> list[bytes]:
    """The fixtures in the form that the target reads."""
    bodies = [body_of(channel, name) for name in names(channel)]
    if target == "parse":
        return [bytes([4]) + body for body in bodies]
    with_secret = [
        re.sub(rb'"secret":\s*"[^"]*"', b'"secret":"' + SECRET_HERE + b'"', body) for body in bodies
    ]
    plain = [bytes([choice, 20, 1]) + b"\x00" + body for body in with_secret for choice in SPOILT]
    return plain + (_of_other_secrets(with_secret[0]) if channel == "events" else [])


def _of_other_secrets(body: bytes) -> list[bytes]:
    """Each choice of the secrets that `events` may have and of who signs; the proof alone, and among others."""
    choices = [how | who << 4 for how in SPOILT for who in range(1, 16)]
    among = b"webhook-signature: v1,AAAA v1a,AAAA v1a,*** v2,x " + PROOF_HERE
    return [bytes([choice, 20, 1]) + head + b"\x00" + body for choice in choices for head in (b"", among)]


def unpack(target: str, channel: str, folder: Path) -> None:
    """Writes corpus and seeds as the files that libFuzzer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in [*kept(target, channel), *seeds(target, channel)]:
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def pack(target: str, channel: str, folder: Path) -> int:
    """Takes the files of `folder` for the corpus, and gives how many; seeds are left out, they stand in the fixtures."""
    known = set(seeds(target, channel))
    found = sorted(
        {file.read_bytes() for file in folder.iterdir()} - known, key=lambda data: (len(data), data)
    )
    FOLDER.mkdir(exist_ok=True)
    file_of(target, channel).write_text("".join(base64.b64encode(data).decode() + "\n" for data in found))
    return len(found)


if __name__ == "__main__":
    given_target, given_channel, given_folder = sys.argv[1:]
    sys.stderr.write(f"{pack(given_target, given_channel, Path(given_folder))} inputs kept\n")
