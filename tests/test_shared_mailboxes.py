"""Mailboxes: nobody sleeps through what is meant for him, and whoever goes away in whatever moment harms nobody."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interleaving import Interleaving
from processes import (
    PATIENCE,
    Program,
    chosen_lines,
    cleaned_up,
    in_forks,
    is_gone,
    kill,
    killed_at_line,
    open_descriptors,
    other_package,
    servers_of,
    wait_until,
)

import maestro_shm as ms
from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head
from maestro_shm.shared import mailboxes, transport, wire
from maestro_shm.shared.incoming import Incoming
from maestro_shm.shared.mailboxes import LARGEST_MESSAGE, MOST, Mailbox, Mailboxes
from maestro_shm.shared.store import SharedStore
from maestro_shm.shared.transport import Line

# Two sides, interleaved at each load and store


class Post:
    """A server's side and clients' sides of one file, and who was rung for."""

    def __init__(self, directory: Path, choices: list[int], clients: int) -> None:
        self.order = Interleaving(choices)
        self.boxes = Mailboxes(directory, 1)
        numbers = [self.given() for _ in range(clients)]
        self.clients = [Mailbox(directory, self.boxes.address(number)) for number in numbers]
        self.boxes._words = self.order.words(self.boxes._words)
        for client in self.clients:
            client._words = self.order.words(client._words)
        self.rings_at_server = 0
        self.rings_at_client = [0] * clients
        self.unfinished = clients

    def given(self) -> int:
        number = self.boxes.give()
        assert number is not None
        return number

    def serve(self) -> None:
        """Answer each request with its bytes in the other order, until all clients are done."""
        incoming = Incoming(self.boxes, cast("selectors.BaseSelector", self))
        while self.unfinished:
            numbers, _ = incoming.next(lambda: 1.0, may_watch=False)
            for number in numbers:
                self.rings_at_client[number] += self.boxes.reply(number, self.boxes.request(number)[::-1])

    def select(self, seconds: float) -> list[Any]:
        """In place of a selector: sleep until somebody rings, and hear all the rings."""
        if seconds:
            self.order.sleep_until(lambda: self.rings_at_server or not self.unfinished)
        self.rings_at_server = 0
        return []

    def ask(self, number: int, requests: int) -> None:
        """Post requests, and sleep until each is answered."""
        mailbox = self.clients[number]
        for request in (f"{number} {turn}".encode() for turn in range(requests)):
            self.rings_at_server += mailbox.post(request)
            if (reply := mailbox.reply()) is None:
                mailbox.fall_asleep()
                while (reply := mailbox.reply()) is None:
                    self.order.sleep_until(lambda: self.rings_at_client[number])
                    self.rings_at_client[number] = 0
                mailbox.wake_up()
            assert reply == request[::-1]
        self.unfinished -= 1


RUNS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=30)
CHOICES = RUNS.map(lambda runs: [choice for who, steps in runs for choice in (who, *[0] * steps)])


@given(choices=CHOICES, clients=st.integers(1, 2))
def test_nobody_sleeps_for_ever_in_whatever_order_the_sides_go_on(
    tmp_path_factory: pytest.TempPathFactory, choices: list[int], clients: int
) -> None:
    post = Post(tmp_path_factory.mktemp("post"), choices, clients)
    asks = [lambda number=number: post.ask(number, 2) for number in range(clients)]
    assert post.order.run(post.serve, *asks), "all sleep, and a request or a reply lies there"


@given(choices=CHOICES, first=st.integers(0, 1))
def test_no_request_is_seen_before_one_that_was_posted_earlier(
    tmp_path_factory: pytest.TempPathFactory, choices: list[int], first: int
) -> None:
    post = Post(tmp_path_factory.mktemp("post"), choices, 2)
    rounds: list[list[int]] = []

    def post_both() -> None:
        for number in (first, 1 - first):
            post.clients[number].post(b"request")

    def look() -> None:
        while len([number for numbers in rounds for number in numbers]) < 2:
            rounds.append(post.boxes.arrived())

    assert post.order.run(look, post_both)
    assert first in next(numbers for numbers in rounds if numbers)


def test_each_side_says_that_the_other_is_to_be_woken_as_long_as_it_sleeps(tmp_path: Path) -> None:
    boxes = Mailboxes(tmp_path, 1)
    assert boxes.give() == 0
    mailbox = Mailbox(tmp_path, boxes.address(0))
    for sleeps in (False, True, False):
        for side in (boxes, mailbox):
            side.fall_asleep() if sleeps else side.wake_up()
        assert mailbox.post(b"?") is sleeps
        assert boxes.arrived() == [0]
        assert boxes.reply(0, b"!") is sleeps
        assert mailbox.reply() == b"!"


# Whose a mailbox is


def test_a_mailbox_that_goes_to_another_has_neither_request_nor_reply_in_it(tmp_path: Path) -> None:
    boxes = Mailboxes(tmp_path, 1)
    for _ in range(3):
        assert boxes.give() == 0
        mailbox = Mailbox(tmp_path, boxes.address(0))
        assert not boxes.have_arrived()
        mailbox.post(b"?")
        assert mailbox.reply() is None
        assert boxes.arrived() == [0]
        boxes.reply(0, b"!")
        mailbox.fall_asleep()
        boxes.take_back(0)


@pytest.mark.parametrize(
    "address",
    [
        "1-0",
        (1, 0),
        (1, 0, 1, 1),
        ("1", 0, 1),
        (1, -1, 1),
        (1, MOST, 1),
        (1, True, 1),
        (1, 2**64, 1),
        (1, 0, None),
        ("/../../x", 0, 1),
        5,
    ],
)
def test_what_is_no_address_of_a_mailbox_is_refused(tmp_path: Path, address: Any) -> None:
    boxes = Mailboxes(tmp_path, 1)
    assert boxes.give() == 0
    with pytest.raises((ValueError, TypeError)):
        Mailbox(tmp_path, address)


def test_the_mailboxes_of_another_server_under_the_same_name_are_not_taken(tmp_path: Path) -> None:
    boxes = Mailboxes(tmp_path, 1)
    assert boxes.give() == 0
    epoch, number, inode = boxes.address(0)
    with pytest.raises(FileNotFoundError):
        Mailbox(tmp_path, (epoch, number, inode + 1))


def test_nothing_is_written_to_a_mailbox_that_was_closed_and_no_reply_comes(tmp_path: Path) -> None:
    boxes = Mailboxes(tmp_path, 1)
    assert boxes.give() == 0
    mailbox = Mailbox(tmp_path, boxes.address(0))
    before = (tmp_path / mailboxes.file_name(1)).read_bytes()
    mailbox.close()
    mailbox.post(b"?")
    mailbox.fall_asleep()
    assert mailbox.reply() is None
    assert (tmp_path / mailboxes.file_name(1)).read_bytes() == before


# Real servers


def soon() -> float:
    return time.monotonic() + PATIENCE


def commit(store: ms.Store, sequence: int, aggregate_id: str = "a") -> list[ms.Event]:
    return store.commit_events([ms.Event(aggregate_id, sequence, "made", None)])


def line_to(path: Path) -> Line:
    header = head.open_header(path)
    epoch = header.words[head.EPOCH]
    header.close()
    return Line(str(directories.socket_path(path, epoch)), directories.read_key(path), soon())


def number_of(line: Line) -> int | None:
    """Of the line's mailbox."""
    return None if line._mailbox is None else line._mailbox._number_word - mailboxes._NEWEST_REQUESTS


def request(number: int, aggregate_id: str, sequence: int = 1) -> bytes:
    row = [aggregate_id, sequence, None, b"x"]
    return wire.payload_of([number, "journal", "commit_events", [os.urandom(16), [row], False]])


@pytest.fixture
def store(path: Path) -> Iterator[ms.Store]:
    """One whose server is the same to the end."""
    with ms.connect(path) as store:
        commit(store, 1, "begin")
        server = store.stats()["server_pid"]
        yield store
        commit(store, 2, "begin")
        assert store.stats()["server_pid"] == server


@pytest.fixture
def lines(path: Path, store: ms.Store) -> Iterator[Callable[[], Line]]:
    """Lines to that server."""
    assert store.stats()["events"] == 1
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(line_to(path)))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def asleep(call: Callable[[], Any], line: Line) -> Iterator[Future[Any]]:
    """What a call comes to that sleeps until its reply comes by the line's mailbox."""
    mailbox = line._mailbox
    assert mailbox is not None
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(call)
        wait_until(lambda: mailbox._words[mailbox._word + mailboxes._CLIENT_SLEEPS], "the client sleeps")
        yield future


def line_of(store: ms.Store) -> Line:
    """The line at rest that a store's next call takes."""
    assert isinstance(store, SharedStore)
    return store._proxy._at_rest[-1]


NOBODY_LOOKS = """
from maestro_shm.shared import server
server.LONGEST_SLEEP = server._TICK = 1e6
"""
SLEEPS_LONG = """
import sys
sys.path.insert(0, sys.argv[1])
import maestro_shm as ms, random, time
from maestro_shm.shared import transport
transport.LONGEST_SLEEP = 1e6
with ms.connect(sys.argv[2]) as store:
    for number in range(1, 400):
        store.commit_events([ms.Event(sys.argv[3], number, "made", None)])
        time.sleep(random.choice((0, 0, 1e-4, 3e-4, 1e-3)))
    print(store.last_sequence(sys.argv[3]))
"""


def test_each_request_and_each_reply_wakes_who_sleeps_though_nobody_looks_by_himself(
    path: Path, tmp_path: Path
) -> None:
    package = other_package(tmp_path, NOBODY_LOOKS).parent
    with cleaned_up(path), contextlib.ExitStack() as stack:
        names = ("one", "two", "three")
        programs = [stack.enter_context(Program(SLEEPS_LONG, package, path, name)) for name in names]
        assert [program.output() for program in programs] == ["399"] * 3


def test_a_client_that_sleeps_hears_by_the_socket_that_its_server_was_killed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LONGEST_SLEEP", 1e6)
    with ms.connect(path, timeout=PATIENCE) as store:
        commit(store, 1)
        server = store.stats()["server_pid"]
        os.kill(server, signal.SIGSTOP)
        with asleep(lambda: commit(store, 2), line_of(store)) as committed:
            os.kill(server, signal.SIGKILL)
            assert committed.result(PATIENCE) == store.get_events("a", 2)


KILL_ITSELF = """
import signal
from maestro_shm.shared.mailboxes import Mailboxes
from maestro_shm.shared.server import LoopServer

begin, reply = LoopServer.__init__, Mailboxes.reply

def be_known(self, *arguments):
    global server
    server = self
    begin(self, *arguments)

def die_once(self, number, message):
    if server.journal.last_position == 2 and not os.path.exists({flag!r}):
        open({flag!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return reply(self, number, message)

LoopServer.__init__, Mailboxes.reply = be_known, die_once
"""


@pytest.mark.parametrize("metadata", [None, {"by": "me"}])
def test_a_commit_whose_server_is_killed_before_it_answers_by_mail_is_stored_once_and_told_of(
    path: Path, tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    flag = tmp_path / "killed"
    package = other_package(tmp_path, KILL_ITSELF.format(flag=str(flag))).parent
    source = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import maestro_shm as ms
        with ms.connect(sys.argv[2]) as store:
            store.commit_events([ms.Event("a", 1, "made", None)])
            before = store.stats()["server_pid"]
            told = store.commit_events([ms.Event("a", 2, "made", "once", metadata=eval(sys.argv[3]))])
            print(told == store.get_events("a", 2), store.stats()["events"], store.stats()["server_pid"] != before)
    """
    with cleaned_up(path), Program(source, package, path, repr(metadata)) as program:
        assert program.output() == "True 2 True"
    assert flag.exists()


@pytest.mark.lines
def test_a_client_that_is_killed_at_any_line_of_a_request_harms_nobody(path: Path, store: ms.Store) -> None:
    def work() -> None:
        with ms.connect(path) as other:
            commit(other, 1, f"killed-{number}")

    for number in chosen_lines():
        if not killed_at_line(number, work, within="post"):
            break
        assert commit(store, 1, f"honest-{number}") == store.get_events(f"honest-{number}")
        assert len(store.get_events(f"killed-{number}")) <= 1
    assert number > 20
    wait_until(lambda: store.stats()["clients"] == 1, "the killed ones are known to be gone")
    with ms.connect(path) as other:
        assert number_of(line_of(other)) == 1  # so all got theirs back to it


def test_a_client_that_is_stopped_while_it_sleeps_has_its_reply_when_it_goes_on(path: Path, store: ms.Store) -> None:
    server = store.stats()["server_pid"]
    with Program(
        """
        import maestro_shm as ms, sys
        with ms.connect(sys.argv[1]) as store:
            store.commit_events([ms.Event("stopped", 1, "made", None)])
            print("ready", flush=True)
            input()
            print(store.commit_events([ms.Event("stopped", 2, "made", None)])[0].sequence)
        """,
        path,
    ) as program:
        assert program.line() == "ready"
        with stopped(server):
            program.tell()
            wait_until(lambda: any(map(sleeps, range(2), [path] * 2)), "the client sleeps")
            os.kill(program.pid, signal.SIGSTOP)
        for sequence in range(1, 50):
            commit(store, sequence)
        assert store.last_sequence("stopped") == 2
        os.kill(program.pid, signal.SIGCONT)
        assert program.output() == "2"


def sleeps(number: int, path: Path) -> bool:
    """Whether the client of a mailbox sleeps, as its file says."""
    content = (path / mailboxes.file_name(1)).read_bytes()
    place = mailboxes._start(number) + 8 * mailboxes._CLIENT_SLEEPS
    return content[place : place + 8] != bytes(8)


def test_a_call_that_found_no_reply_in_time_leaves_none_for_the_next(path: Path, store: ms.Store) -> None:
    server = store.stats()["server_pid"]
    with ms.connect(path, timeout=0.3) as hasty:
        commit(hasty, 1, "hasty")
        with stopped(server), pytest.raises(ms.StoreUnavailableError, match="may or may not have been stored"):
            commit(hasty, 2, "hasty")
        assert isinstance(hasty, SharedStore)
        hasty._proxy._timeout = PATIENCE
        for sequence in range(1, 20):
            (told,) = commit(hasty, sequence, "next")
            assert [told] == store.get_events("next", sequence)
        assert commit(hasty, 2, "hasty") == store.get_events("hasty", 2)


# Replies too large for a mailbox


def large_request(number: int) -> bytes:
    """Fits into a mailbox, and its reply, with a timestamp for each event, does not."""
    rows = [[chr(64 + stream // 40) + chr(64 + stream % 40), 1, None, b""] for stream in range(1000)]
    payload = wire.payload_of([number, "journal", "commit_events", [os.urandom(16), rows, False]])
    assert len(payload) <= LARGEST_MESSAGE
    return payload


def is_large_reply(reply: bytes, number: int) -> bool:
    echoed, good, (_, timestamps) = wire.unpack(reply)
    return len(reply) > LARGEST_MESSAGE and (echoed, good, len(timestamps)) == (number, True, 1000)


def test_a_reply_too_large_for_the_mailbox_comes_by_the_socket(store: ms.Store, lines: Callable[[], Line]) -> None:
    line = lines()
    assert is_large_reply(line.post(large_request(7), soon()), 7)
    assert wire.unpack(line.post(request(8, "next"), soon()))[:2] == (8, True)
    assert store.stats()["events"] == 1002


def test_a_reply_too_large_for_the_mailbox_reaches_who_sleeps(store: ms.Store, lines: Callable[[], Line]) -> None:
    line = lines()
    with stopped(store.stats()["server_pid"]):
        stack = contextlib.ExitStack()
        answered = stack.enter_context(asleep(lambda: line.post(large_request(7), soon()), line))
    with stack:
        assert is_large_reply(answered.result(PATIENCE), 7)
    assert wire.unpack(line.post(request(8, "next"), soon()))[:2] == (8, True)


def test_a_request_too_large_for_the_mailbox_goes_by_the_socket(store: ms.Store) -> None:
    for sequence, size in enumerate((LARGEST_MESSAGE - 200, LARGEST_MESSAGE, 100_000, 1), 1):
        told = store.commit_events([ms.Event("a", sequence, "made", bytes(size))])
        assert told == store.get_events("a", sequence)


# Whose a mailbox is, when clients come and go


def test_mailboxes_are_given_again_when_their_clients_have_left(store: ms.Store, path: Path) -> None:
    for _ in range(50):
        with contextlib.closing(line_to(path)) as line:
            assert number_of(line) in (1, 2)  # the last one's end may be heard of a little later
            assert wire.unpack(line.post(request(1, os.urandom(8).hex()), soon()))[:2] == (1, True)
    assert store.stats()["events"] == 51


def test_a_client_that_is_dropped_may_go_on_writing_and_nobody_gets_its_mailbox(
    store: ms.Store, lines: Callable[[], Line]
) -> None:
    bad = lines()
    with pytest.raises((EOFError, ConnectionError)):
        bad.post(b"garbage", soon())
    others = [lines() for _ in range(3)]
    assert number_of(bad) not in map(number_of, others)
    assert bad._mailbox is not None
    for number, other in enumerate(others):
        bad._mailbox.post(request(number, "bad"))
        assert wire.unpack(other.post(request(number, f"good-{number}"), soon()))[:2] == (number, True)
    assert store.last_sequence("bad") is None


def test_what_a_client_left_behind_unread_is_not_taken_for_its_successors(
    store: ms.Store, path: Path, lines: Callable[[], Line]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "_ask_for_mailbox", lambda *_: None)
        successor = lines()
    leaver = line_to(path)
    assert number_of(leaver) == 1
    with stopped(store.stats()["server_pid"]):
        assert leaver._mailbox is not None
        leaver._mailbox.post(b"garbage")
        leaver.close()
        successor._send(wire.pack([1, None, "mailbox", []]), soon())
    assert wire.unpack(successor._receive(soon()))[:2] == (1, True)
    assert wire.unpack(successor.exchange(wire.frame(request(2, "a")), soon()))[:2] == (2, True)


MOST_ARE_TWO = """
from maestro_shm.shared import mailboxes
mailboxes.MOST = 2
"""


def test_connections_beyond_the_mailboxes_go_by_the_socket_until_one_is_free(path: Path, tmp_path: Path) -> None:
    package = other_package(tmp_path, MOST_ARE_TWO).parent
    source = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import maestro_shm as ms, time
        def open_one(number):
            store = ms.connect(sys.argv[2])
            store.commit_events([ms.Event(f"a-{number}", 1, "made", None)])
            return store
        stores = [open_one(number) for number in range(4)]
        print([store._proxy._at_rest[-1]._mailbox is not None for store in stores])
        stores.pop(0).close()
        while stores[0].stats()["clients"] > 3:
            time.sleep(0.001)
        stores.append(open_one(4))
        print([store._proxy._at_rest[-1]._mailbox is not None for store in stores])
        print(stores[0].stats()["events"])
        for store in stores:
            store.close()
    """
    with cleaned_up(path), Program(source, package, path) as program:
        assert program.output().splitlines() == [
            "[True, True, False, False]",
            "[True, False, False, True]",
            "5",
        ]


# The file


def test_all_lines_of_a_process_share_one_map_and_leave_nothing_open(path: Path) -> None:
    store = ms.connect(path)
    commit(store, 1)
    before, mapped = open_descriptors(), maps_of_mail(path)
    assert mapped == 1
    opened = [line_to(path) for _ in range(20)]
    assert open_descriptors() == before + 20
    assert maps_of_mail(path) == 1
    for line in opened:
        line.close()
    assert open_descriptors() == before
    store.close()
    assert maps_of_mail(path) == 0
    opened[0].close()


def maps_of_mail(directory: Path) -> int:
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(f"{directory}/{mailboxes._PREFIX}")


def test_the_file_is_its_owners_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with ms.connect(path) as store:
            commit(store, 1)
            assert (path / mailboxes.file_name(1)).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def mail_in(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob("mail-*"))


def test_what_killed_servers_left_is_removed_by_the_next_and_a_server_that_leaves_leaves_nothing(path: Path) -> None:
    with ms.connect(path) as store:
        for epoch in range(1, 4):
            commit(store, epoch)
            assert mail_in(path) == [mailboxes.file_name(epoch)]
            kill(store.stats()["server_pid"])
            assert mail_in(path) == [mailboxes.file_name(epoch)]
        commit(store, 4)
        kill(store.stats()["server_pid"], signal.SIGTERM)
    assert mail_in(path) == []


def test_a_server_whose_directory_was_removed_leaves_the_file_of_the_store_that_was_made_there_anew(path: Path) -> None:
    with ms.connect(path) as former:
        commit(former, 1)
        (old,) = servers_of(path)
        shutil.rmtree(path)
        with ms.connect(path) as store:
            commit(store, 1)
            assert mail_in(path) == [mailboxes.file_name(1)]
            wait_until(lambda: is_gone(old), "the old server has seen that its directory is gone")
            assert mail_in(path) == [mailboxes.file_name(1)]
            with contextlib.closing(line_to(path)) as line:
                assert number_of(line) is not None


def test_where_the_file_was_exchanged_or_removed_new_lines_go_by_the_socket(
    store: ms.Store, path: Path, lines: Callable[[], Line]
) -> None:
    former = lines()
    file = path / mailboxes.file_name(1)
    file.rename(path / "other")
    file.write_bytes((path / "other").read_bytes())
    exchanged = lines()
    file.unlink()
    removed = lines()
    for number, line in enumerate((former, exchanged, removed)):
        assert (number_of(line) is None) == (line is not former)
        assert wire.unpack(line.post(request(number, f"a-{number}"), soon()))[:2] == (number, True)
    assert store.stats()["events"] == 4


def test_where_there_is_no_room_for_a_mailbox_the_socket_does(small_file_system: Path) -> None:
    path = small_file_system / "store"
    with cleaned_up(path), ms.connect(path) as store:
        commit(store, 1)
        fill(small_file_system)
        with ms.connect(path) as other:
            assert commit(other, 2) == store.get_events("a", 2)  # there is room in the log that it has already
            assert number_of(line_of(other)) is None
        (small_file_system / "filler").unlink()
        with ms.connect(path) as other:
            assert commit(other, 3) == store.get_events("a", 3)
            assert number_of(line_of(other)) is not None


NO_ROOM = """
from maestro_shm.errors import StoreFullError
from maestro_shm.shared import mailboxes

class NoRoom:
    @staticmethod
    def create(path, *sizes):
        raise StoreFullError(str(path), 1, 0)

mailboxes.MappedFile = NoRoom
"""


def test_a_server_without_room_for_any_mailbox_serves_by_the_socket(path: Path, tmp_path: Path) -> None:
    package = other_package(tmp_path, NO_ROOM).parent
    source = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import maestro_shm as ms
        with ms.connect(sys.argv[2]) as store:
            store.commit_events([ms.Event("a", 1, "made", None)])
            print(store.stats()["events"], store._proxy._at_rest[-1]._mailbox)
    """
    with cleaned_up(path), Program(source, package, path) as program:
        assert program.output() == "1 None"


def fill(file_system: Path) -> None:
    """Take all the room that there is."""
    with (file_system / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


# Clients that do not do as ours do


@pytest.mark.parametrize("size", [2**64 - 1, 2**63 + 8191, LARGEST_MESSAGE + 1, 8191])
def test_a_size_beyond_the_mailbox_leads_into_no_other(tmp_path: Path, size: int) -> None:
    boxes = Mailboxes(tmp_path, 1)
    assert (boxes.give(), boxes.give()) == (0, 1)
    mailbox, other = (Mailbox(tmp_path, boxes.address(number)) for number in range(2))
    other._data[other._start : other._start + mailboxes._SIZE] = b"*" * mailboxes._SIZE  # of another client
    mailbox.post(b"?" * LARGEST_MESSAGE)
    mailbox._words[mailbox._word + mailboxes._REQUEST_SIZE] = size
    assert boxes.arrived() == [0]
    boxes.reply(0, b"!" * LARGEST_MESSAGE)
    mailbox._words[mailbox._word + mailboxes._REPLY_SIZE] = size
    for message, content in ((boxes.request(0), b"?"), (mailbox.reply() or b"", b"!")):
        assert message.startswith(content * LARGEST_MESSAGE)
        assert b"*" not in message


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, 1000])
def test_a_number_that_jumps_is_answered_as_it_is(store: ms.Store, lines: Callable[[], Line], number: int) -> None:
    line = lines()
    assert line._mailbox is not None
    for turn, before in enumerate((number, 5, number)):
        line._mailbox._request = before - 1
        assert wire.unpack(line.post(request(turn, f"a-{turn}"), soon()))[:2] == (turn, True)
        assert line._mailbox.reply() is not None
    assert store.stats()["events"] == 4


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        msgpack.packb({"a": 1}),
        msgpack.packb([1, None, "shutdown", []]),
        msgpack.packb([1, "journal", "__init__", []]),
        msgpack.packb([None, "journal", "reset", []]),
        b"\xdd\x7f\xff\xff\xff",
        b"\x91" * 900,
        b"\xff" * LARGEST_MESSAGE,
    ],
)
def test_a_client_that_breaks_the_protocol_by_mail_is_dropped(
    store: ms.Store, lines: Callable[[], Line], message: bytes
) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        lines().post(message, soon())
    assert store.stats()["events"] == 1


@pytest.mark.parametrize(
    "rows", [[], [1], [["a", "1", None, b""]], [["a", 1, None, "text"]], "text", [["", 1, None, b""]]]
)
def test_a_commit_by_mail_that_no_client_of_ours_would_send_changes_nothing(
    store: ms.Store, lines: Callable[[], Line], rows: Any
) -> None:
    payload = wire.payload_of([7, "journal", "commit_events", [bytes(16), rows, False]])
    assert wire.unpack(lines().post(payload, soon()))[:2] == (7, False)
    assert store.stats()["events"] == 1


def test_who_asks_by_mail_and_by_the_socket_at_once_is_answered_both_ways(
    store: ms.Store, lines: Callable[[], Line]
) -> None:
    line = lines()
    mailbox = line._mailbox
    assert mailbox is not None
    with stopped(store.stats()["server_pid"]):
        mailbox.post(request(1, "by mail"))
        line._send(wire.frame(request(2, "by the socket")), soon())
    assert wire.unpack(line._receive(soon()))[:2] == (2, True)
    wait_until(mailbox.reply, "the reply is in the mailbox")
    assert wire.unpack(mailbox.reply() or b"")[:2] == (1, True)


def test_who_says_that_the_server_is_awake_while_it_sleeps_keeps_nobody_from_being_answered(
    store: ms.Store, lines: Callable[[], Line]
) -> None:
    liar = lines()
    assert liar._mailbox is not None
    for sequence in range(1, 6):
        time.sleep(0.002)  # so it sleeps
        liar._mailbox._words[mailboxes._SERVER_SLEEPS] = 0
        commit(store, sequence)


# Forks


@contextlib.contextmanager
def at_each_line_of(name: str, act: Callable[[], None]) -> Iterator[None]:
    """Do something before each line of a function of the mailboxes, as a signal's handler might."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG001 (how Python calls it)
        if frame.f_code.co_filename != mailboxes.__file__ or frame.f_code.co_name != name:
            return trace if event == "call" and frame.f_code.co_filename != mailboxes.__file__ else None
        if event == "line":
            act()
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(former)


def test_a_child_that_was_forked_in_mid_call_and_goes_on_harms_its_parents_calls_in_no_way(store: ms.Store) -> None:
    children: list[int] = []
    go_on, may_go_on = os.pipe()

    def fork() -> None:
        if len(children) < 12:
            child = os.fork()
            if child == 0:
                sys.settrace(None)
                os.close(may_go_on)
                os.read(go_on, 1)
            children.append(child)

    told = False
    parent = os.getpid()
    try:
        with at_each_line_of("post", fork):
            commit(store, 1)
        told = True
    finally:
        if os.getpid() != parent:
            os._exit(int(told))
    with stopped(store.stats()["server_pid"]):
        stack = contextlib.ExitStack()
        committed = stack.enter_context(asleep(lambda: commit(store, 2), line_of(store)))
        os.close(may_go_on)  # by which all of them go on
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        os.close(go_on)
    with stack:
        assert committed.result(PATIENCE) == store.get_events("a", 2)
    assert codes
    assert not any(codes), "a child was told of its parent's commit"
    assert store.stats()["events"] == 3
    assert store.stats()["clients"] == 1


# Replies that wait for the disk


def test_replies_that_wait_for_the_disk_go_the_ways_that_their_requests_came(path: Path) -> None:
    sizes = (0, LARGEST_MESSAGE)  # by mail, and by the socket
    with ms.connect(path, durability="power") as store:

        def work(number: int) -> int:
            for sequence in range(1, 40):
                body = [number, bytes(sizes[(number + sequence) % 2])]
                told = store.commit_events([ms.Event(f"a-{number}", sequence, "made", body)])
                assert told == store.get_events(f"a-{number}", sequence)
                assert told[0].body == body
            return number

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(work, range(4))) == [0, 1, 2, 3]
        assert in_forks(2, lambda number: work(number + 4)) == [4, 5]
        assert store.stats()["events"] == 6 * 39
