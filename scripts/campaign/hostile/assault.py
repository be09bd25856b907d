"""Two hostile clients and an honest one at a server with traps in it, and what there is to say about it afterwards."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from processes import Fork, cleaned_up, is_gone

import maestro_shm as ms
from campaign.check import Run
from campaign.hostile.attacker import Attacker
from campaign.hostile.audit import audit
from campaign.hostile.conversation import Record
from campaign.hostile.mutations import Mutator
from campaign.hostile.served import Served
from campaign.hostile.traps import Traps
from maestro_shm import validation
from maestro_shm.shared import wire
from maestro_shm.shared.frame import ENTRY, EVENT, TABLE
from maestro_shm.shared.proxy import StoreProxy
from maestro_shm.shared.transport import Line

HONEST: Final = "honest"
_SLICE: Final = 20_000
"""Messages between two looks at the server."""
_SLICE_SECONDS: Final = 300.0
_MOST_GROWTH: Final = 64 << 20


class _RecordedLine(Line):
    """A line whose requests are kept."""

    def __init__(self, *args: Any) -> None:
        self.requests: list[bytes] = []
        super().__init__(*args)
        self.requests.clear()  # the handshake

    def post(self, payload: bytes, deadline: float, meanwhile: Callable[[], None] | None = None) -> bytes:
        self.requests.append(payload)
        return super().post(payload, deadline, meanwhile)


class Honest:
    """A client that writes, reads what it wrote, and keeps books."""

    def __init__(self, store: ms.Store) -> None:
        self._store = store
        self.written = 0

    def work(self) -> bool:
        """Whether a commit and a read went as they should."""
        self.written += 1
        body = {"number": self.written, "text": "x" * (self.written % 100)}
        try:
            self._store.commit_events([ms.Event(HONEST, self.written, "made", body)])
            found = self._store.get_events(HONEST, self.written)
        except ms.StoreError:
            return False
        return [event.body for event in found] == [body]


@dataclass
class Assault:
    """One store, attacked. `plant` runs in the server's process before it begins."""

    run: Run
    name: str
    plant: Callable[[], object] = int
    patience: float = 30.0
    most_faults: int = 50
    record: Record = field(default_factory=Record)
    faults: Counter[str] = field(default_factory=Counter)
    """By kind; those of the conversations too."""
    served_honestly: int = 0
    growth: int = 0
    """Bytes of memory that the server took more than before."""
    traps: Traps = field(default_factory=Traps)

    def go(self, messages: int) -> None:
        """Attack with so many messages, and look at everything then."""
        with tempfile.TemporaryDirectory() as scratch:
            path, marker = Path(scratch, "store"), Path(scratch, "marker")
            with cleaned_up(path), Served(path, self._prepare) as served, ms.connect(path) as store:
                self._attack(served, Honest(store), marker, messages)
                self._expect(served.is_alive and store.stats()["server_pid"] == served.pid, "died")
                self._expect(not marker.exists() and not self.traps.sprung, "unpickled")
        self.faults += self.record.faults

    def _prepare(self) -> None:
        self.traps.set()
        self.plant()

    def _attack(self, served: Served, honest: Honest, marker: Path, messages: int) -> None:
        requests = _recorded(served)
        usual = served.own_memory()
        while self.record.outcomes.total() < messages and not self.faults and not self.record.faults:
            wanted = min(_SLICE, messages - self.record.outcomes.total())
            self._attack_once(served, honest, Mutators(self.run, self.name, requests, marker), wanted)
            self.growth = max(self.growth, served.own_memory() - usual)
            self._expect(self.growth < _MOST_GROWTH, "grew")
        self._look_at_log(served.path, honest, len(requests))
        self.served_honestly = honest.written

    def _attack_once(self, served: Served, honest: Honest, mutators: Mutators, messages: int) -> None:
        begun = self.record.outcomes.total()
        with ExitStack() as stack:
            forks = [stack.enter_context(Fork(self._attacker(served, mutators, n, begun, messages))) for n in range(2)]
            deadline = time.monotonic() + _SLICE_SECONDS
            while not all(is_gone(fork.pid) for fork in forks):
                assert time.monotonic() < deadline, "the attackers hang"
                self._expect(honest.work(), "dishonest")
                time.sleep(0.001)  # the attackers are to have the most of the server
            for fork in forks:
                self.record.add(fork.result())

    def _attacker(
        self, served: Served, mutators: Mutators, number: int, begun: int, messages: int
    ) -> Callable[[], Record]:
        def attack() -> Record:
            choices = self.run.random("frames", self.name, number, begun)
            mutator = mutators.make(number, begun)
            attacker = Attacker(served.address, served.key, choices, mutator, self.patience, self.most_faults)
            return attacker.attack(messages // 2)

        return attack

    def _look_at_log(self, path: Path, honest: Honest, recorded: int) -> None:
        found = audit(path, HONEST)
        self._expect(not found.faults, "wrote wrongly")
        bodies = [event.body["number"] for event in found.honest]
        self._expect(bodies == list(range(1, honest.written + 1)), "dishonest")
        others = found.frames.total() - found.frames[HONEST.encode()]
        self._expect(others <= self.record.stored + recorded, "stored more than it said")

    def _expect(self, good: object, otherwise: str) -> None:
        if not good:
            self.faults[otherwise] += 1


@dataclass(frozen=True)
class Mutators:
    """Of one run of attackers: what they start from."""

    run: Run
    name: str
    requests: list[bytes]
    marker: Path

    def make(self, number: int, begun: int) -> Mutator:
        choices = self.run.random("mutations", self.name, number, begun)
        return Mutator(choices, self.requests, self.marker, first_sequence=10 + begun * 1000 + number)


def _recorded(served: Served) -> list[bytes]:
    """What an honest client sends: each call once, and some in both of their shapes."""
    line = _RecordedLine(served.address, served.key, time.monotonic() + 30)
    proxy = StoreProxy(served.path, 30, line)
    events = [ms.Event(f"attacker-{number}", 1, "made", {"a": [1, b"2", None]}) for number in range(3)]
    for commit in (events, [ms.Event("attacker-0", 2, "made", 1, timestamp=5)]):
        proxy.commit_events(validation.pack_events(commit, 1 << 20), lambda _, reply: reply, _nothing)
    several = [validation.pack_events([ms.Event(f"attacker-{number}", 2, "made", 1)], 1 << 20) for number in (1, 2)]
    proxy.commit_each(several, _nothing)
    rows = validation.pack_events([ms.Event("attacker-0", 3, "made", 1)], 1 << 20)
    value = validation.pack_value("table", "key", {"a": 1})
    proxy.commit(
        rows, [("table", "key", 0, value), ("table", "other", 0, value)], [(EVENT, "attacker-1", "", 2)], _nothing
    )
    proxy.commit([], [("table", "key", 1, b"")], [(ENTRY, "table", "other", 0), (TABLE, "table", "", 0)], _nothing)
    snapshot = ms.Snapshot("attacker-1", 1, {"balance": 5})
    proxy.commit_snapshot("attacker-1", 1, validation.pack_snapshot(snapshot, 1 << 20))
    if turn := proxy.turn("attacker-1", 5, 0.05, 0.02, 1.0):
        proxy.give_back("attacker-1", turn[0])
    again = [_sent_again(request) for request in line.requests]
    proxy.close()
    others: tuple[list[Any], ...] = ([9, "journal", "reset", []], [0, None, "destroy", []], [0, None, "stop", []])
    return [*line.requests, *again, *(wire.pack(request)[wire.LENGTH_BYTES :] for request in others)]


def _nothing(*_: Any) -> None:
    """What is made of a reply here."""


def _sent_again(request: bytes) -> bytes:
    number, ident, method, arguments = wire.unpack(request)
    return wire.pack([number, ident, method, [*arguments[:-1], True]])[wire.LENGTH_BYTES :]
