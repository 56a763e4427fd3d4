"""One system for all fault tests: each leaves it whole, so that the next finds it running."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.resilience.world import World, running_world


@pytest.fixture(scope="package")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running_world(tmp_path_factory.mktemp("world")) as started:
        yield started
