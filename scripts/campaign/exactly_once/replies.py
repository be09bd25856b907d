"""Replies that are cut, and calls that signals interrupt: each commit is done once, and its caller told of it.

Every commit has a content that no other has, and is made again until its outcome is known. In the end the log is read
as it lies in the files, and has to agree with what each caller was told; rivals see to it that there are conflicts too.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from processes import PATIENCE, named_target
from relay import Cut, Fault, Relay

import maestro_shm as ms
from campaign.check import Finding, Run, comes_to_light
from campaign.exactly_once.at_work import threads_at_work
from campaign.exactly_once.by_mail import commit_by_mail, forget_what_was_sent
from campaign.exactly_once.drafts import Draft, Drafter, Told, told_by
from campaign.exactly_once.interrupts import Interrupts
from campaign.exactly_once.outcomes import Commit, Conflict, NotNewer, faults_of, frames_of
from campaign.exactly_once.planted_outcomes import caught
from campaign.exactly_once.trial import Done, Trial, Work
from maestro_shm.shared.store import SharedStore, path_of

WORKERS: Final = 2
_LITTLE_PATIENCE: Final = 0.3
"""Seconds that a reply is waited for which is held."""
_CUTS: Final = (Cut.BEFORE, Cut.PARTLY, Cut.UNAWAITED, Cut.UNANSWERED, Cut.TORN)
_HOLDS: Final = (Cut.HELD, Cut.LOST, Cut.LATE)


def check(run: Run) -> Iterator[Finding]:
    """All kinds of calls without a reply."""
    cut = run.count(full=1000, quick=50)
    yield _finding(run, f"{cut:,} commits whose replies were cut", "cut", cut, _commit_through_cuts)
    interrupted = run.count(full=1000, quick=100)
    yield _finding(
        run, f"{interrupted:,} calls interrupted by signals", "interrupted", interrupted, _commit_through_signals
    )
    mailed = run.count(full=1000, quick=30)
    yield _finding(
        run, f"{mailed:,} commits by mail that met a fault", "mailed", mailed, commit_by_mail, _catches_one_by_mail
    )


def _finding(
    run: Run,
    figure: str,
    purpose: str,
    count: int,
    work: Callable[[Work], Done],
    catches_one: Callable[[Run, int], bool] | None = None,
) -> Finding:
    faults: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    found = planted = 0
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(named_target()) for _ in range(WORKERS)]
        share = -(-count // WORKERS)
        works = [(target, run.random(purpose, number), share) for number, target in enumerate(targets)]
        # Not by forks: the threads of a pool before this one may hold locks at that moment.
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(WORKERS))
        results = pool.map(work, works)
        pool.close()
        pool.join()
        for target, (commits, counts) in zip(targets, results, strict=True):
            frames = frames_of(path_of(target))
            faults += faults_of(commits, frames)
            counted += counts
            counted["conflicts"] += sum(type(commit.outcome) in (Conflict, NotNewer) for commit in commits)
            plants = run.count(full=220, quick=22)
            found += caught(run.random(purpose, "planted"), plants, commits, frames)
            planted += plants
    if catches_one is not None:
        found += comes_to_light(partial(catches_one, run))
        planted += 1
    done = counted[purpose]
    told = ", ".join(f"{number:,} {name}" for name, number in sorted(counted.items()))
    kinds = "".join(f", {number:,} {name}" for name, number in faults.items() if name not in ("doubled", "unresolved"))
    return Finding(
        figure=figure,
        goal=f"0 doubled, 0 unresolved in {count:,}",
        found=f"{faults['doubled']} doubled, {faults['unresolved']} unresolved{kinds} ({told})",
        met=not faults and done >= count,
        planted=f"{found} of {planted}",
        caught_all=found == planted,
    )


def _catches_one_by_mail(run: Run, attempt: int) -> bool:
    """Whether it is found out that a client sends again as if it were the first time."""
    with named_target() as target, multiprocessing.get_context("spawn").Pool(1) as pool:
        commits, _ = pool.apply(forget_what_was_sent, ((target, run.random("mailed", "forgetful", attempt), 10),))
        return bool(faults_of(commits, frames_of(path_of(target)))["own"])


def _commit_through_cuts(work: Work) -> Done:
    target, random, count = work
    commits: list[Commit] = []
    counts: Counter[str] = Counter()
    with ms.connect(target) as rival, ms.connect(target) as store, Relay(path_of(target)) as relay:
        assert isinstance(store, SharedStore)
        proxy = store._proxy
        trial = Trial(random, rival, commits)

        def ask(draft: Draft, faults: list[Fault]) -> Told | None:
            """The first time with little patience if the reply is held, then with as much as a server's start takes."""
            relay.meet(draft.content.encode(), *faults)
            proxy._timeout = _LITTLE_PATIENCE if faults and faults[0].cut in _HOLDS else PATIENCE
            faults.clear()
            told = told_by(store, draft)
            if told is None and random.random() < 0.5:
                faults.extend(_faults(random, rival, _CUTS))
            return told

        while counts["cut"] < count:
            trial.commit_anything()  # so there is a server, whose place can be taken
            relay.take_place()
            proxy._hang_up()
            draft = trial.drafter.draft()
            relay.met.clear()
            cuts = _HOLDS if random.random() < 0.15 else _CUTS
            trial.resolve(draft, partial(ask, draft, _faults(random, rival, cuts)))
            relay.spare(draft.content.encode())
            counts["cut"] += bool(relay.met)
            counts["held"] += any(cut in _HOLDS for cut in relay.met)
        counts["servers killed"] = rival.stats()["epoch"] - 1
    return commits, counts


def _faults(random: random.Random, store: ms.Store, cuts: tuple[Cut, ...]) -> list[Fault]:
    """What a call meets: one that is held, or some cuts one after the other."""
    server = store.stats()["server_pid"]
    count = 1 if cuts is _HOLDS else random.choice((1, 1, 2, 3, 4))
    return [
        Fault(random.choice(cuts), random.random(), server if random.random() < 0.3 else None) for _ in range(count)
    ]


def _commit_through_signals(work: Work) -> Done:
    target, random, count = work
    commits: list[Commit] = []
    beside: list[list[Commit]] = [[], [], []]
    counts: Counter[str] = Counter()
    with ms.connect(target) as rival, ms.connect(target) as store, Interrupts(random) as interrupts:
        trial = Trial(random, rival, commits)

        def ask(draft: Draft, tries: Iterator[int]) -> Told | None:
            if next(tries) > random.choice((0, 0, 1, 2)):
                return told_by(store, draft)
            before = interrupts.met
            told = interrupts.call(lambda: told_by(store, draft))
            if interrupts.met > before:
                counts["of them stored already"] += _is_there(rival, draft)
            return told

        def go_on(until: int) -> None:
            while interrupts.met < until:
                draft = trial.drafter.draft()
                trial.resolve(draft, partial(ask, draft, itertools.count()))

        go_on(count // 2)
        with threads_at_work(*(_committer(store, number, done) for number, done in enumerate(beside))):
            go_on(count)
        counts["interrupted"] = interrupts.met
    return [*commits, *(commit for done in beside for commit in done)], counts


def _committer(store: ms.Store, number: int, done: list[Commit]) -> Callable[[], None]:
    """Commits to a stream of its own."""
    drafter = Drafter(random.Random(number), store, f"beside-{number}", [f"beside-{number}"])

    def commit() -> None:
        draft = drafter.draft()
        done.append(draft.told(told_by(store, draft)))

    return commit


def _is_there(store: ms.Store, draft: Draft) -> bool:
    if isinstance(draft.made, ms.Snapshot):
        return store.get_snapshot(draft.made.aggregate_id) == draft.made
    first = draft.made[0]
    found = store.get_events(first.aggregate_id, first.sequence, max_sequence=first.sequence)
    return [event.body for event in found] == [first.body]
