"""The rules of turns, without any process: who has one, in which order, for how long, and whose commits wait for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from maestro_shm.shared.stream_terms import LONGEST_LEASE, MOST_COMMITS
from maestro_shm.shared.stream_turns import Asked, Commit, HeldBack, StreamTurns, asked, commit_of

LEASE = 10.0
STREAMS = ["a", "b"]


class Peer:
    """Stands for a connection, and for the process that it is of."""

    def __init__(self, name: str) -> None:
        self.client = name.encode().ljust(8)
        self.requests = 0

    def __repr__(self) -> str:
        return self.client.decode().strip()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Turns:
    """The turns with a clock of ours, and what was answered."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.real = StreamTurns(self.clock)
        self.granted: list[tuple[Peer, int]] = []
        """Who was given which turn."""
        self.streams: list[str] = []
        """Of the turns, whose numbers begin with 1."""
        self.refused: list[Peer] = []
        self.released: list[Peer] = []

    def ask(
        self, peer: Peer, stream: str = "a", *, commits: int = 1, idle: float = LEASE, patience: float = 1e6
    ) -> bool:
        peer.requests += 1
        wanted = Asked(stream, peer.client, commits, LEASE, idle, self.clock.now + patience)
        may = self.real.ask(peer, peer.requests, wanted)  # type: ignore[arg-type]
        self.streams += [stream] * may
        return may

    def granted_of(self, stream: str) -> list[Peer]:
        """Who was given the turns of a stream, in order."""
        return [peer for peer, number in self.granted if self.streams[number - 1] == stream]

    def commit(self, peer: Peer, *streams: str) -> bool:
        """Whether it was made now, and not held back."""
        commit = Commit(peer.client, streams, ())
        if (stream := self.real.waits_for(commit)) is not None:
            assert self.real.hold_back(stream, HeldBack(peer, b"", by_mail=False))  # type: ignore[arg-type]
            return False
        self.real.note(commit)
        return True

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.real.expire(self.clock.now)

    def answer(self) -> list[Peer]:
        """Who got a turn since the last time."""
        self.released += [held.peer for held in self.real.released()]  # type: ignore[misc]
        granted = []
        for peer, _, turn in self.real.answers():
            if turn is None:
                self.refused.append(peer)  # type: ignore[arg-type]
            else:
                granted.append((peer, turn[0]))
        self.granted += granted  # type: ignore[arg-type]
        return [peer for peer, _ in granted]  # type: ignore[misc]


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def peers() -> list[Peer]:
    return [Peer(f"p{number}") for number in range(5)]


def test_turns_are_given_in_the_order_in_which_they_were_asked_for(turns: Turns, peers: list[Peer]) -> None:
    for peer in peers:
        assert turns.ask(peer)
    for peer in peers:
        assert turns.answer() == [peer]
        assert turns.commit(peer, "a")
    assert len(turns.real) == 0


def test_turns_of_different_streams_do_not_wait_for_each_other(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0], "a")
    turns.ask(peers[1], "b")
    assert turns.answer() == peers[:2]


def test_who_is_given_a_turn_hears_how_many_want_one(turns: Turns, peers: list[Peer]) -> None:
    for peer in peers[:3]:
        turns.ask(peer)
    assert [turn for _, _, turn in turns.real.answers()] == [[1, 0]]
    turns.real.give_back("a", 1)
    turns.real.give_back("a", 2)
    assert [turn for _, _, turn in turns.real.answers()] == [[2, 1], [3, 2]]


def test_a_turn_of_several_commits_ends_with_the_last_of_them(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0], commits=3)
    turns.ask(peers[1])
    assert turns.answer() == peers[:1]
    for _ in range(2):
        assert turns.commit(peers[0], "a")
        assert turns.answer() == []
    assert turns.commit(peers[0], "b", "a")
    assert turns.answer() == peers[1:2]


def test_a_turn_ends_when_too_long_nothing_follows_on_a_commit(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0], commits=5, idle=2.0)
    turns.ask(peers[1])
    for _ in range(3):
        turns.pass_time(1.5)
        assert turns.commit(peers[0], "a")
    assert turns.answer() == peers[:1]
    turns.pass_time(2.0)
    assert turns.answer() == peers[1:2]


def test_a_turn_ends_with_its_lease_however_much_goes_on_in_it(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0], commits=50)
    turns.ask(peers[1])
    for _ in range(int(LEASE)):
        assert turns.commit(peers[0], "a")
        turns.pass_time(1.0)
    assert turns.answer() == peers[:2]


def test_a_commit_that_only_read_the_stream_ends_its_holders_turn(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0])
    turns.real.note(Commit(peers[0].client, {"other"}, {"a"}))
    turns.ask(peers[1])
    assert turns.answer() == peers[:2]


def test_a_turn_that_is_given_back_is_the_next_ones_and_cannot_be_given_back_again(
    turns: Turns, peers: list[Peer]
) -> None:
    for peer in peers[:3]:
        turns.ask(peer)
    turns.answer()
    turns.real.give_back("a", 1)
    turns.real.give_back("a", 1)
    turns.real.give_back("nowhere", 1)
    assert turns.answer() == peers[1:2]


def test_the_commits_of_others_wait_until_the_holder_has_made_one(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0], commits=5)
    turns.answer()
    assert not turns.commit(peers[1], "a")
    assert not turns.commit(peers[2], "x", "a")
    assert turns.commit(peers[3], "b")
    turns.answer()
    assert turns.released == []
    assert turns.commit(peers[0], "a")
    turns.answer()
    assert turns.released == peers[1:3]


@pytest.mark.parametrize("ending", ["time", "giving back", "leaving"])
def test_held_back_commits_go_on_however_the_turn_ends(turns: Turns, peers: list[Peer], ending: str) -> None:
    turns.ask(peers[0])
    turns.answer()
    assert not turns.commit(peers[1], "a")
    if ending == "time":
        turns.pass_time(LEASE)
    elif ending == "leaving":
        turns.real.forget(peers[0])  # type: ignore[arg-type]
    else:
        turns.real.give_back("a", 1)
    turns.answer()
    assert turns.released == peers[1:2]
    assert len(turns.real) == 0


def test_two_who_have_a_turn_each_do_not_wait_for_each_other(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0], "a")
    turns.ask(peers[1], "b")
    assert turns.commit(peers[0], "a", "b")
    assert turns.commit(peers[1], "b", "a")


def test_a_client_has_one_commit_held_back_at_a_time(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0])
    assert not turns.commit(peers[1], "a")
    held = HeldBack(peers[1], b"", by_mail=False)  # type: ignore[arg-type]
    assert not turns.real.hold_back("a", held)


def test_a_client_waits_for_one_turn_at_a_time(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0])
    assert turns.ask(peers[1])
    assert not turns.ask(peers[1], "b")


def test_who_left_is_passed_over_and_nothing_is_kept_of_him(turns: Turns, peers: list[Peer]) -> None:
    for peer in peers[:3]:
        turns.ask(peer)
    assert not turns.commit(peers[3], "a")
    for peer in (peers[1], peers[3], peers[0]):
        turns.real.forget(peer)  # type: ignore[arg-type]
    assert turns.answer() == [peers[0], peers[2]]  # the first had it before he left
    assert turns.released == []
    turns.real.forget(peers[2])  # type: ignore[arg-type]
    assert len(turns.real) == 0
    assert turns.real._held_back == {} == turns.real._waiting
    assert turns.real._held_back_peers == set()


def test_who_does_not_want_to_wait_any_longer_is_told_so(turns: Turns, peers: list[Peer]) -> None:
    turns.ask(peers[0])
    turns.ask(peers[1], patience=LEASE / 2)
    turns.pass_time(LEASE / 2)
    assert turns.answer() == peers[:1]
    assert turns.refused == peers[1:2]
    turns.pass_time(LEASE / 2)
    assert turns.answer() == []


def test_the_number_of_streams_with_turns_is_bounded(turns: Turns) -> None:
    many = [Peer(f"{number}") for number in range(2000)]
    for number, peer in enumerate(many):
        assert turns.ask(peer, f"stream-{number}")
    turns.answer()
    assert len(turns.granted) == 1024
    assert len(turns.refused) == 2000 - 1024


def test_nobody_gets_more_than_a_turn_may_be() -> None:
    wanted = asked("a", b"12345678", 10**9, 10**9, 10**9, 10**18)
    assert (wanted.commits, wanted.lease) == (MOST_COMMITS, LONGEST_LEASE)
    wanted = asked("a", b"12345678", -5, -5, -5, -5)
    assert (wanted.commits, wanted.lease) == (1, 0.0)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("reset", ()),
        ("commit_snapshot", (b"1" * 16, "a", 1, b"", False)),
        ("commit_events", ()),
        ("commit_events", (None, [("a", 1, None, b"")], False)),
        ("commit_events", (b"1" * 16, [3], False)),
        ("commit_events", (b"1" * 16, [[["a"], 1]], False)),
        ("commit", (b"1" * 16, [], [], [(1, 2)], False)),
        ("commit_each", ([], False)),
        ("commit_each", ([(b"1" * 16, [("a", 1)])], False)),
    ],
)
def test_what_is_no_commit_has_nothing_to_do_with_turns(method: str, arguments: tuple[object, ...]) -> None:
    assert commit_of(method, arguments) is None


def test_commits_that_are_sent_together_wait_together() -> None:
    commits = [(b"a client" + bytes(8), [("a", 1, None, b"")], False), (b"", [("b", 1, None, b"")], False)]
    assert commit_of("commit_each", (commits, False)) == Commit(b"a client", {"a", "b"}, ())


class TurnsMachine(RuleBasedStateMachine):
    """Many clients who ask, commit, give back, leave and do nothing, beside the plainest queue."""

    everybody = Bundle[Peer]("everybody")

    @initialize()
    def begin(self) -> None:
        self.turns = Turns()
        self.names = 0
        self.lines: dict[str, list[tuple[Peer, int, float]]] = {stream: [] for stream in STREAMS}
        """Who stands in line: the first has the turn, with commits left and when its lease ends."""
        self.expected: dict[str, list[Peer]] = {stream: [] for stream in STREAMS}
        self.held: list[tuple[Peer, str]] = []
        self.gone: set[Peer] = set()

    @rule(target=everybody)
    def come(self) -> Peer:
        self.names += 1
        return Peer(f"p{self.names}")

    def _note_front(self, stream: str) -> None:
        line = self.lines[stream]
        if line:
            peer, commits, _ = line[0]
            line[0] = peer, commits, self.turns.clock.now + LEASE
            self.expected[stream].append(peer)

    def _end(self, stream: str) -> None:
        self.lines[stream].pop(0)
        self._release(stream)
        self._note_front(stream)

    def _release(self, stream: str) -> None:
        self.held = [held for held in self.held if held[1] != stream]

    def _waits(self, peer: Peer) -> bool:
        return any(peer is other for line in self.lines.values() for other, _, _ in line[1:])

    @rule(peer=everybody, stream=st.sampled_from(STREAMS), commits=st.integers(1, 3))
    def ask(self, peer: Peer, stream: str, commits: int) -> None:
        if peer in self.gone:
            return
        may_ask = not self._waits(peer)
        assert self.turns.ask(peer, stream, commits=commits) == may_ask
        if may_ask:
            self.lines[stream].append((peer, commits, 0.0))
            if len(self.lines[stream]) == 1:
                self._note_front(stream)

    @rule(peer=everybody, streams=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=2, unique=True))
    def commit(self, peer: Peer, streams: list[str]) -> None:
        if peer in self.gone or any(peer is other for other, _ in self.held):
            return
        fronts = {stream: self.lines[stream][0][0] for stream in streams if self.lines[stream]}
        may = not fronts or peer in fronts.values()
        assert self.turns.commit(peer, *streams) == may
        if not may:
            self.held.append((peer, list(fronts)[-1]))
            return
        for stream, front in fronts.items():
            if front is peer:
                _, commits, end = self.lines[stream][0]
                self.lines[stream][0] = peer, commits - 1, end
                self._release(stream)
                if commits == 1:
                    self._end(stream)

    @precondition(lambda self: any(self.lines.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from([stream for stream, line in self.lines.items() if line]))
        self.turns.real.give_back(stream, next(iter(self.turns.real.streams[stream])))
        self._end(stream)

    @rule(peer=everybody)
    def leave(self, peer: Peer) -> None:
        if peer in self.gone:
            return
        self.gone.add(peer)
        self.held = [held for held in self.held if held[0] is not peer]
        self.turns.real.forget(peer)  # type: ignore[arg-type]
        for stream, line in self.lines.items():
            front = line[:1]
            line[:] = [*front, *(other for other in line[1:] if other[0] is not peer)]
            if front and front[0][0] is peer:
                self._end(stream)

    @rule(seconds=st.sampled_from([1.0, 4.0, LEASE]))
    def pass_time(self, seconds: float) -> None:
        self.turns.pass_time(seconds)
        for stream, line in self.lines.items():
            if line and line[0][2] <= self.turns.clock.now:
                self._end(stream)

    @invariant()
    def turns_are_given_in_order_and_to_one_at_a_time(self) -> None:
        self.turns.answer()
        for stream, line in self.lines.items():
            assert self.turns.granted_of(stream) == self.expected[stream]
            queue = self.turns.real.streams.get(stream, {})
            expected: list[Any] = [peer for peer, _, _ in line]
            assert [turn.peer for turn in queue.values()] == expected

    @invariant()
    def a_commit_waits_only_while_another_has_the_turn(self) -> None:
        held = {stream: [commit.peer for commit in commits] for stream, commits in self.turns.real._held_back.items()}
        for stream in STREAMS:
            expected: list[Any] = [peer for peer, where in self.held if where == stream]
            assert held.get(stream, []) == expected
            assert not expected or self.lines[stream]

    @invariant()
    def no_turn_is_longer_than_its_lease(self) -> None:
        now = self.turns.clock.now
        assert self.turns.real.seconds(now, 1e9) <= LEASE or not any(self.lines.values())
        for queue in self.turns.real.streams.values():
            assert now < next(iter(queue.values())).deadline <= now + LEASE


TestTurns = TurnsMachine.TestCase
