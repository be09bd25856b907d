"""Replies that are exchanged on their way: told by their numbers, and where those are forged, by what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from processes import named_target
from relay import Cut, Fault, Relay

import maestro_shm as ms
from campaign.check import Finding, Run
from campaign.exactly_once.drafts import Draft, Drafter, Told, told_by
from campaign.exactly_once.outcomes import Commit, faults_of, frames_of
from maestro_shm.shared.store import SharedStore, path_of

_CALLERS: Final = ("one", "other")


def finding(run: Run) -> Finding:
    """Both kinds; the forged ones are the planted faults."""
    pairs = run.count(full=200, quick=20)
    with named_target() as target, ms.connect(target) as store, Relay(path_of(target)) as relay:
        assert isinstance(store, SharedStore)
        relay.take_place()
        store._proxy._hang_up()
        refused, commits = _exchange(run, store, relay, pairs)
        wrong = faults_of(commits, frames_of(path_of(target))).total()
        forged = _forge(run, store, relay, pairs)
        stored = {entries[0].content: entries for entries in frames_of(path_of(target))}
    caught = sum(faults_of([commit], [stored[commit.content]])["wrong"] for commit in forged)
    return Finding(
        figure=f"{2 * pairs} replies exchanged on their way",
        goal="none taken for another's",
        found=f"{refused} refused, {wrong} wrong when asked again",
        met=refused == 2 * pairs and wrong == 0,
        planted=f"{caught} of {len(forged)}",
        caught_all=caught == len(forged),
    )


def _exchange(run: Run, store: ms.Store, relay: Relay, pairs: int) -> tuple[int, list[Commit]]:
    """How many replies were refused, and what came of the commits when they were made again."""
    refused = 0
    commits = []
    for drafts in _drafts(run, store, "exchanged", pairs):
        for draft, told in zip(drafts, _commit(store, relay, drafts, Cut.EXCHANGED), strict=True):
            refused += told is None
            commits.append(draft.told(told_by(store, draft) if told is None else told))
    return refused, commits


def _forge(run: Run, store: ms.Store, relay: Relay, pairs: int) -> list[Commit]:
    """What callers were told by replies that bear the right number and are another's."""
    return [
        draft.told(told)
        for drafts in _drafts(run, store, "forged", pairs)
        for draft, told in zip(drafts, _commit(store, relay, drafts, Cut.RENUMBERED), strict=True)
    ]


def _drafts(run: Run, store: ms.Store, purpose: str, pairs: int) -> list[list[Draft]]:
    names = [f"{purpose}-{caller}" for caller in _CALLERS]
    drafters = [Drafter(run.random("exchanges", name), store, name, [name]) for name in names]
    return [
        [drafter.events((name, sequence)) for drafter, name in zip(drafters, names, strict=True)]
        for sequence in range(1, pairs + 1)
    ]


def _commit(store: ms.Store, relay: Relay, drafts: Sequence[Draft], cut: Cut) -> list[Told | None]:
    """What both are told, each by the other's reply."""
    for draft in drafts:
        relay.meet(draft.content.encode(), Fault(cut))
    with ThreadPoolExecutor(len(drafts)) as threads:
        return list(threads.map(partial(told_by, store), drafts))
