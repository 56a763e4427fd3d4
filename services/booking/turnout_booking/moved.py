"""The one way in which a batch finds that it must be read again."""

from __future__ import annotations

from uuid import UUID


class Moved(Exception):
    """Another transaction changed what this batch had read. It is rolled back to its start and done again, then also
    locking `chains` and `clients`."""

    def __init__(self, chains: set[UUID] | None = None, clients: set[UUID] | None = None) -> None:
        super().__init__()
        self.chains = chains or set()
        self.clients = clients or set()

    def widened(self, moved: Moved) -> Moved:
        """What the next attempt also locks; nothing, where what was known before may be gone."""
        if not (moved.chains or moved.clients):
            return Moved()
        return Moved(self.chains | moved.chains, self.clients | moved.clients)
