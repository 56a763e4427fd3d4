"""Promise: a start with a key that does not open the data ends in words, before a service meets it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.conftest import MASTER_KEY
from tests.infrastructure import Database
from turnout_cli.errors import CommandError
from turnout_cli.master_key import require_master_key


def key_file(folder: Path, text: str) -> Path:
    file = folder / "master.key"
    file.write_text(text + "\n")
    return file


async def test_the_key_that_the_data_was_made_with_is_taken(
    database: Database, tenant_id: str, tmp_path: Path
) -> None:
    file = key_file(tmp_path, base64.b64encode(MASTER_KEY).decode())

    await require_master_key(database.dsn("platform"), file)


async def test_another_key_is_refused_with_its_file_and_what_to_do(
    database: Database, tenant_id: str, tmp_path: Path
) -> None:
    file = key_file(tmp_path, base64.b64encode(bytes(32)).decode())

    with pytest.raises(CommandError, match=f"{file} is not the key .* put the right one back"):
        await require_master_key(database.dsn("platform"), file)


@pytest.mark.parametrize("text", ["", "no base64", base64.b64encode(b"short").decode(), "ключ"])
async def test_a_damaged_key_is_told_with_its_file(database: Database, tmp_path: Path, text: str) -> None:
    with pytest.raises(CommandError, match="holds no master key"):
        await require_master_key(database.dsn("platform"), key_file(tmp_path, text))
