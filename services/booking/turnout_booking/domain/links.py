"""The order of a chain's items: where each uid stands in O → N1 → N2, and which of two successors counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from turnout_booking.domain.items import Item, ItemKind
from turnout_booking.domain.rules import RULES_BY_NAME, Scope

#: Depth, and whether the uid lies on the path that counts: what a lost successor says is sorted before the winner's.
Position = tuple[int, bool]
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Links:
    """The uids of a chain in order. `last_uid` is the one that stands now, `moves` its depth; `overlaps` counts the
    uids that were moved twice."""

    positions: Mapping[str, Position]
    last_uid: str | None
    moves: int
    overlaps: int

    def sorted(self, items: Iterable[Item]) -> list[Item]:
        """The items in the order of the fold, the same for every order of `items`."""
        return sorted(items, key=self.sort_key)

    def sort_key(self, item: Item) -> tuple[Position, datetime, int, UUID]:
        rule = RULES_BY_NAME[item.trigger]
        position: Position = (self.moves, True)
        if rule.scope is not Scope.CHAIN and item.uid is not None:
            position = self.positions[item.uid]
        return position, item.at, rule.rank, item.key


def links_of(items: Iterable[Item]) -> Links:
    """The links that a set of items states. Contradictions (two predecessors, a circle) are resolved by source time."""
    first_at: dict[str, datetime] = {}
    claims: dict[str, tuple[datetime, str]] = {}
    roots: dict[str, tuple[datetime, str]] = {}
    for item in items:
        if item.kind is not ItemKind.SOURCE or item.uid is None:
            continue
        uid = item.uid
        first_at[uid] = min(first_at.get(uid, item.at), item.at)
        if item.previous_uid is not None and item.previous_uid != uid:
            claims[uid] = min(claims.get(uid, (item.at, item.previous_uid)), (item.at, item.previous_uid))
        if item.root_uid is not None and item.root_uid != uid:
            roots[uid] = min(roots.get(uid, (item.at, item.root_uid)), (item.at, item.root_uid))
    if not claims and not roots and len(first_at) <= 1:
        return Links(dict.fromkeys(first_at, (0, True)), next(iter(first_at), None), 0, 0)
    stated = {**roots, **claims}
    parents = _without_circles({uid: previous for uid, (_, previous) in stated.items()}, stated)
    children: dict[str, list[str]] = {}
    for uid, parent in parents.items():
        children.setdefault(parent, []).append(uid)
    named = set(first_at) | set(parents.values()) | {previous for _, previous in stated.values()}

    def lateness(uid: str) -> tuple[datetime, str]:
        return stated[uid][0], uid

    paths = [_path_from(root, children, lateness) for root in sorted(named - set(parents))]
    path = max(paths, key=lambda p: (len(p), first_at.get(p[-1], _LONG_AGO), p[-1]))
    overlaps = sum(1 for successors in children.values() if sum(uid in claims for uid in successors) > 1)
    return Links(_positions(named, parents, path), path[-1], len(path) - 1, overlaps)


def _path_from(
    root: str, children: Mapping[str, list[str]], lateness: Callable[[str], tuple[datetime, str]]
) -> list[str]:
    """From `root` along the successor that counts, to the uid that stands now."""
    path = [root]
    while successors := children.get(path[-1]):
        path.append(max(successors, key=lateness))
    return path


def _positions(named: Iterable[str], parents: Mapping[str, str], path: Sequence[str]) -> dict[str, Position]:
    positions: dict[str, Position] = {uid: (depth, True) for depth, uid in enumerate(path)}
    for uid in named:
        branch: list[str] = []
        while uid not in positions and uid in parents:
            branch.append(uid)
            uid = parents[uid]
        if uid not in positions:  # a root of its own, that the path does not start from
            positions[uid] = (0, False)
        depth, on_path = positions[uid]
        for lost in branch:
            positions[lost] = (depth + 1 if on_path else depth, False)
    return positions


def _without_circles(parents: dict[str, str], stated: Mapping[str, tuple[datetime, str]]) -> dict[str, str]:
    """`parents` with each circle opened at the uid whose link was stated first."""
    settled: set[str] = set()
    for start in sorted(parents):
        path: list[str] = []
        uid: str | None = start
        while uid is not None and uid not in settled and uid not in path:
            path.append(uid)
            uid = parents.get(uid)
        if uid is not None and uid in path:
            circle = path[path.index(uid) :]
            del parents[min(circle, key=lambda u: (stated[u][0], u))]
        settled.update(path)
    return parents
