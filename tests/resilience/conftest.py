"""One system for all fault tests: each leaves it whole, so that the next finds it running."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("tests.resilience.scenario", "tests.resilience.world")

from tests.resilience.world import World, running_world  # noqa: E402


@pytest.fixture(scope="package")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running_world(tmp_path_factory.mktemp("world")) as started:
        yield started


@pytest.fixture
async def world(system: World) -> AsyncIterator[World]:
    """The one system; whole again after a test that failed half-way."""
    yield system
    await system.mend()
