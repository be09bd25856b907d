"""Commits of one event have a way of their own through client, server and journal; they end as by the usual one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from books import CAP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import maestro_shm as ms
from maestro_shm import codec, validation
from maestro_shm.errors import CorruptLogError, InvalidEventError, StoreError
from maestro_shm.shared import election, log, plain_commit, positions, wire
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import COMMIT_ID_BYTES, EVENT, RECORD_HEADER_BYTES
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import Facts, Log
from maestro_shm.shared.mailboxes import LARGEST_MESSAGE, Mailbox
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.store import SharedStore
from maestro_shm.shared.transport import Line

sequences = st.integers(0, ms.MAX_SEQUENCE)


ids = st.sampled_from(["a", "b", "ü", "c" * 300])
numbers = st.integers(0, 12) | st.sampled_from([ms.MAX_SEQUENCE, ms.MAX_SEQUENCE + 1, 2**64 - 1])
payloads = st.binary(max_size=40) | st.sampled_from([bytes(30_000), bytes(CAP)])


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands, so that both journals give the same timestamps."""
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)


@pytest.fixture
def twins(tmp_path: Path, still: None) -> Iterator[tuple[Journal, Journal]]:
    del still
    journals = []
    for name in ("usual", "plain"):
        (tmp_path / name).mkdir()
        journals.append(Journal.open(tmp_path / name, max_commit_bytes=CAP))
    yield journals[0], journals[1]
    for journal in journals:
        journal.close()


def usual(journal: Journal, commit_id: bytes, row: tuple[str, int, bytes]) -> Any:
    aggregate_id, sequence, payload = row
    try:
        position, (timestamp,) = journal.commit_events(
            commit_id, [(aggregate_id, sequence, None, payload)], resent=None
        )
    except StoreError as error:
        return repr(error)
    return position, timestamp, journal._heads.get(EVENT, aggregate_id.encode())[1]


def plain(journal: Journal, commit_id: bytes, row: tuple[str, int, bytes]) -> Any:
    aggregate_id, sequence, payload = row
    arguments = commit_id, aggregate_id.encode(), sequence, payload
    try:
        placed = journal.commit_event(*arguments) or journal.commit_lone_event(*arguments)
        return placed or usual(journal, commit_id, row)
    except StoreError as error:
        return repr(error)


def content(journal: Journal) -> dict[str, bytes]:
    found = {}
    for path in journal.directory.iterdir():
        with path.open("rb") as file:
            found[path.name] = file.read(CAP)  # the commits are in there
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ids | st.just(""), numbers, payloads), max_size=30))
def test_a_commit_of_one_event_is_stored_the_plain_way_as_it_is_the_usual_way(
    rows: list[tuple[str, int, bytes]], tmp_path_factory: pytest.TempPathFactory, still: None
) -> None:
    del still
    directory = tmp_path_factory.mktemp("twins")
    journals = []
    for name in ("usual", "plain"):
        (directory / name).mkdir()
        journals.append(Journal.open(directory / name, max_commit_bytes=CAP))
    by_the_usual_way, by_the_plain_way = journals
    try:
        for number, row in enumerate(rows):
            commit_id = number.to_bytes(COMMIT_ID_BYTES)
            expected = usual(by_the_usual_way, commit_id, row)
            assert plain(by_the_plain_way, commit_id, row) == expected
        assert by_the_plain_way.last_position == by_the_usual_way.last_position
        assert content(by_the_plain_way) == content(by_the_usual_way)
    finally:
        for journal in journals:
            journal.close()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SEGMENT_BITS", 14), ("SEGMENT_SIZE", 1 << 14), ("_MASK", (1 << 14) - 1)):
        monkeypatch.setattr(log, name, value)
    for name, value in (("_SEGMENT_BITS", 12), ("_INDEX_BITS", 9), ("_INDEX_MASK", (1 << 9) - 1)):
        monkeypatch.setattr(positions, name, value)


def test_the_plain_way_leads_over_the_ends_of_segments(small_segments: None, twins: tuple[Journal, Journal]) -> None:
    del small_segments
    plain = 0
    for number in range(2_000):
        commit_id, row = number.to_bytes(COMMIT_ID_BYTES), ("a", number + 1, bytes(number % 100 + 1))
        expected = usual(twins[0], commit_id, row)
        answer = twins[1].commit_event(commit_id, b"a", *row[1:])
        plain += answer is not None
        assert (answer or usual(twins[1], commit_id, row)) == expected
    assert content(twins[1]) == content(twins[0])
    assert 1_900 < plain < 2_000


@pytest.mark.parametrize("full", ["log", "positions"])
def test_a_refused_commit_to_the_next_segment_leaves_the_plain_way_in_this_one(
    small_segments: None, tmp_path: Path, full: str
) -> None:
    del small_segments
    journal = Journal.open(tmp_path, max_commit_bytes=CAP)
    try:
        journal.commit_events(bytes(16), [("a", 1, None, b"a"), ("b", 1, None, b"b")], resent=None)
        size = 3_000 if full == "log" else 1
        rows = [("a", 2 + number, None, bytes(size)) for number in range(5 if full == "log" else 508)]
        for row in rows:
            journal.commit_events(bytes(16), [row], resent=None)
        key_of_damaged = journal._heads.get(EVENT, b"a")[1] + RECORD_HEADER_BYTES
        journal._files.log.write(key_of_damaged, key_of_damaged, b"z")
        going = [("a", 1_000, None, bytes(3_000)), ("a", 1_001, None, b"a"), ("new", 1, None, b"new")]
        with pytest.raises(CorruptLogError):
            journal.commit_events(bytes(16), going, resent=None)
        assert not journal.is_broken
        answer = journal.commit_event(bytes(16), b"b", 2, b"of b") or usual(journal, bytes(16), ("b", 2, b"of b"))
        with closing(Reader(tmp_path)) as reader:
            assert [event[2] for event in rows_of(reader, "b")] == [b"b", b"of b"]
            assert reader.view.feed.offset(answer[0]) == answer[2]
    finally:
        journal.close()


def rows_of(reader: Reader, aggregate_id: str) -> list[tuple[int, int, bytes]]:
    view = reader.view
    _, offset, _ = view.head(aggregate_id, view.words[head.PUBLISHED]) or (0, 0, 0)
    return [(read[0], read[2], read[4]) for read in reversed(view.log.read_back(offset, 0, ms.MAX_SEQUENCE))]


def test_the_second_event_of_a_stream_goes_the_plain_way(twins: tuple[Journal, Journal]) -> None:
    _, journal = twins
    commit_ids = [number.to_bytes(COMMIT_ID_BYTES) for number in range(3)]
    assert journal.commit_event(commit_ids[0], b"a", 1, b"payload") is None
    journal.commit_events(commit_ids[0], [("a", 1, None, b"payload")], resent=None)
    assert journal.commit_event(commit_ids[1], b"a", 2, b"payload") is not None
    assert journal.commit_event(commit_ids[2], b"a", 2, b"payload") is None


def test_a_stream_that_is_not_remembered_goes_the_plain_way_too(tmp_path: Path, twins: tuple[Journal, Journal]) -> None:
    for journal in twins:
        journal.commit_events(bytes(COMMIT_ID_BYTES), [("a", 1, None, b"payload")], resent=None)
        journal.commit_events(bytes(COMMIT_ID_BYTES), [("b", 1, None, b"payload")], resent=None)
    usual_one, plain_one = (Journal.open(tmp_path / name, max_commit_bytes=CAP) for name in ("usual", "plain"))
    for journal in (usual_one, plain_one):
        journal.commit_events(bytes(COMMIT_ID_BYTES), [("b", 2, None, b"payload")], resent=None)  # which takes room
    answer = plain_one.commit_event(bytes(COMMIT_ID_BYTES), b"a", 2, b"payload")
    assert answer == usual(usual_one, bytes(COMMIT_ID_BYTES), ("a", 2, b"payload"))
    assert answer is not None
    assert content(plain_one) == content(usual_one)
    for journal in (usual_one, plain_one):
        journal.close()


def test_one_that_must_not_write_takes_no_plain_way(twins: tuple[Journal, Journal], tmp_path: Path) -> None:
    former, _ = twins
    former.commit_events(bytes(COMMIT_ID_BYTES), [("a", 1, None, b"payload")], resent=None)
    latter = Journal.open(tmp_path / "usual", max_commit_bytes=CAP)
    try:
        assert former.commit_event(bytes(COMMIT_ID_BYTES), b"a", 2, b"payload") is None
    finally:
        latter.close()


# As a message


def request(sequence: int, key: bytes, commit_id: bytes, payload: bytes) -> bytes:
    number = int.from_bytes(commit_id[8:])
    return plain_commit.pack_request(plain_commit.REQUEST, len(key), sequence, number, commit_id) + key + payload


@given(sequence=numbers, aggregate_id=ids, commit_id=st.binary(min_size=16, max_size=16), payload=st.binary())
def test_a_plain_message_is_read_as_one_by_msgpack(
    sequence: int, aggregate_id: str, commit_id: bytes, payload: bytes
) -> None:
    number = int.from_bytes(commit_id[8:])
    row = aggregate_id, sequence, None, payload
    by_msgpack = wire.payload_of([number, "journal", "commit_events", [commit_id, [row], False]])
    assert wire.unpack(request(sequence, aggregate_id.encode(), commit_id, payload)) == wire.unpack(by_msgpack)


@given(message=st.binary(max_size=60))
def test_a_plain_message_that_is_cut_off_or_no_unicode_is_refused(message: bytes) -> None:
    whole = request(1, b"key", bytes(16), b"")
    for refused in (whole[: len(message) % len(whole)] or b"\xc1", request(1, b"\xff", bytes(16), message)):
        with pytest.raises(wire.ProtocolError):
            wire.unpack(refused)


def test_a_reply_is_no_request_and_no_message_of_msgpack() -> None:
    with pytest.raises(wire.ProtocolError):
        wire.unpack(plain_commit.pack_reply(plain_commit.REPLY, 1, 2, 3, 4))


@pytest.mark.parametrize("by", ["post", "wait"])
def test_a_server_answers_a_plain_message_by_mail_and_by_the_socket(store: ms.Store, by: str) -> None:
    assert isinstance(store, SharedStore)
    line = election.attach(store.directory, time.monotonic() + 30)
    try:
        for sequence, key, refusal in ((2, b"a", None), (1, b"new", None), (2, b"a", "SequenceConflictError")):
            message = request(sequence, key, sequence.to_bytes(16), b"\xc0")
            reply = getattr(line, by)(message, time.monotonic() + 30)
            is_plain = reply[:2] == plain_commit.REPLY.to_bytes(2, "little")
            assert is_plain == (by == "post" and refusal is None)
            if is_plain:
                answer: Any = plain_commit.unpack_reply(reply)[1:3]
            else:
                answer = wire.unpack(reply)
                answer = (answer[0], answer[2][0]) if answer[1] else answer[2]
            assert answer == (refusal or (sequence, store.last_position))
    finally:
        line.close()


@pytest.mark.parametrize("by", ["post", "wait"])
@pytest.mark.parametrize("key", [b"\xff", b"accounts"])
def test_who_sends_a_plain_message_that_is_cut_off_or_no_unicode_is_dropped(
    store: ms.Store, by: str, key: bytes
) -> None:
    assert isinstance(store, SharedStore)
    line = election.attach(store.directory, time.monotonic() + 30)
    try:
        message = request(1, key, bytes(COMMIT_ID_BYTES), b"")
        with pytest.raises((EOFError, ConnectionError)):
            getattr(line, by)(message[:-1] if key == b"accounts" else message, time.monotonic() + 30)
    finally:
        line.close()
    assert [event.aggregate_id for event in store.read()] == ["a"]


def test_a_reply_to_another_request_is_not_believed(store: ms.Store) -> None:
    def of_another(*_: object) -> bytes:
        return plain_commit.pack_reply(plain_commit.REPLY, 2**63, 7, 7, 7)

    with replaced("reply", of_another), pytest.raises(ms.StoreUnavailableError, match="may or may not"):
        store.commit_events([ms.Event("a", 2, "made", None)])
    assert store.commit_events([ms.Event("a", 2, "made", None)]) == store.get_events("a", 2)


# What is known of it to who made it


@contextmanager
def records_read(store: SharedStore) -> Iterator[list[int]]:
    """The offsets at which records are read one by one."""
    of_records = store._reader.view.log
    offsets: list[int] = []

    def read(offset: int) -> Facts:
        offsets.append(offset)
        return Log.read(of_records, offset)

    with mock.patch.object(of_records, "read", read):
        yield offsets


def test_who_reads_a_stream_that_he_alone_commits_to_reads_no_record_to_learn_that_nothing_is_new(
    store: ms.Store,
) -> None:
    assert isinstance(store, SharedStore)
    assert store.last_sequence("a") == 1
    with records_read(store) as offsets:
        for sequence in range(2, 6):
            store.commit_events([ms.Event("a", sequence, "made", None)])
            assert store.get_events("a", sequence + 1, complete=True) == []
            assert store.last_sequence("a") == sequence
    assert not offsets


def test_who_reads_a_stream_sees_what_others_commit_between_his_own(store: ms.Store) -> None:
    assert isinstance(store, SharedStore)
    with ms.connect(store.directory) as other:
        for sequence in range(2, 12):
            (store, other)[sequence % 3 == 0].commit_events([ms.Event("a", sequence, "made", sequence)])
            for reader in (store, other):
                assert reader.last_sequence("a") == sequence
                assert [event.body for event in reader.get_events("a", 2)] == list(range(2, sequence + 1))


def test_what_is_noted_of_a_commit_to_another_incarnation_is_not_believed(store: ms.Store) -> None:
    assert isinstance(store, SharedStore)
    store.commit_events([ms.Event("a", 2, "made", None)])
    assert store.last_sequence("a") == 2
    former = store._reader.view
    store.reset()
    offset = former.heads["a"][1]
    former.note("a", 7, offset)
    assert former.heads["a"][2] == 2
    store.commit_events([ms.Event("a", 1, "made", None)])
    store.commit_events([ms.Event("a", 5, "made", None)])
    assert store.last_sequence("a") == 5


# What is plain


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
bodies = st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
strange = st.sampled_from([None, -1, 2**63, True, 1.5, "", "\ud800", "x" * 70_000, b"b", {1.5: 2}, bytearray(), {}])
proposed = st.builds(
    ms.Event,
    aggregate_id=st.text(max_size=80) | strange,
    sequence=sequences | strange,
    type=st.text(max_size=8) | strange,
    body=bodies | st.just("b" * 700) | st.just(object()) | strange,
    timestamp=st.none() | sequences | strange,
    metadata=st.none() | st.dictionaries(st.text(), bodies, max_size=2) | strange,
)


@given(event=proposed | st.just("no event"))
def test_a_plain_event_is_packed_as_any(event: Any) -> None:
    plain = validation.pack_plain(event, 1024)
    try:
        packed = validation.pack_events([event], 1024)
    except InvalidEventError:
        assert plain is None
    else:
        assert plain in (None, packed[0])


def test_the_usual_events_are_plain() -> None:
    body = {"amount": 12345, "note": "x" * 150, "tags": ["a", "b"], "ok": True}
    by_whom = {"correlation_id": "c" * 36, "user": "alice"}
    for event in (
        ms.Event("account-1", 7, "deposited", body),
        ms.Event("account-1", 7, "deposited", body, metadata=by_whom),
        ms.Event("счёт-1", 0, "открыт", None),
        ms.Event("document-1", 1, "written", "x" * 7_000),
    ):
        assert validation.pack_plain(event, 7_500 + 320) is not None


@pytest.mark.parametrize("cap", [1024, 4096, 1 << 20])
def test_events_just_small_enough_to_be_plain_are_stored_and_larger_ones_that_the_cap_has_room_for(cap: int) -> None:
    longest = "\U0001f600" * 64
    posted = []
    post = Mailbox.post

    def noted(mailbox: Mailbox, payload: bytes) -> bool:
        posted.append(len(payload))
        return post(mailbox, payload)

    largest = min(cap - 4 * 64 - 64, LARGEST_MESSAGE - plain_commit.KEY_AT - 4 * 64)
    with ms.connect(max_commit_bytes=cap) as store, mock.patch.object(Mailbox, "post", noted):
        sizes = []
        for sequence in range(1, 25):
            event = ms.Event(longest, sequence, "made", b"x" * (largest - 22 + sequence))
            sizes.append(len(codec.pack_event(event)) - largest)
            if sizes[-1] > 0 and cap < LARGEST_MESSAGE:
                with pytest.raises(InvalidEventError, match="over the cap"):
                    store.commit_events([event])
                continue
            assert store.commit_events([event]) == store.get_events(longest, sequence)
    assert sizes[0] < 0 < sizes[-1]
    assert 0 in sizes
    assert max(posted) == plain_commit.KEY_AT + len(longest.encode()) + largest <= LARGEST_MESSAGE


# Calls that are interrupted

Commit = Callable[[ms.Store, ms.Event], list[ms.Event]]


class InterruptError(Exception):
    """What a signal's handler raises."""


def plainly(store: ms.Store, event: ms.Event) -> list[ms.Event]:
    return store.commit_events([event])


def usually(store: ms.Store, event: ms.Event) -> list[ms.Event]:
    return store.commit_events(iter([event]))


@pytest.fixture
def store() -> Iterator[ms.Store]:
    with ms.connect() as store:
        store.commit_events([ms.Event("a", 1, "made", None)])
        yield store


@contextmanager
def replaced(name: str, act: Callable[[Line, Callable[..., Any], tuple[Any, ...]], Any]) -> Iterator[None]:
    """For the first call of a line's method something else."""
    former = getattr(Line, name)

    def once(self: Line, *arguments: Any) -> Any:
        setattr(Line, name, former)
        return act(self, former, arguments)

    setattr(Line, name, once)
    try:
        yield
    finally:
        setattr(Line, name, former)


def interrupt(*_: object) -> None:
    raise InterruptError


def break_off(*_: object) -> None:
    raise EOFError


@pytest.mark.parametrize("first", [interrupt, break_off])
@pytest.mark.parametrize("commit", [plainly, usually])
def test_a_call_is_left_open_though_its_line_cannot_be_closed(
    store: ms.Store, commit: Commit, first: Callable[..., None]
) -> None:
    def after_the_reply(line: Line, reply: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        reply(line, *arguments)
        first()

    event = ms.Event("a", 2, "made", None)
    with replaced("reply", after_the_reply), replaced("close", interrupt), pytest.raises(InterruptError):
        commit(store, event)
    assert commit(store, event) == store.get_events("a", 2)


@pytest.mark.parametrize("commit", [plainly, usually])
def test_a_child_that_is_forked_in_mid_call_and_uses_the_store_takes_nothing_over(
    store: ms.Store, commit: Commit
) -> None:
    parent = os.getpid()
    said, to_say = os.pipe()
    event = ms.Event("a", 2, "made", None)

    def fork(line: Line, send: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        send(line, *arguments)
        if os.fork() == 0:
            os.close(said)
            store.commit_events([ms.Event("another", 1, "made", None)])

    told: object = None
    with suppress(OSError), replaced("send", fork):
        told = commit(store, event)
    if os.getpid() != parent:
        try:
            commit(store, event)
        except ms.SequenceConflictError:
            os.write(to_say, b"conflict")
        finally:
            os._exit(0)
    os.close(to_say)
    assert told == store.get_events("a", 2)
    assert os.read(said, 100) == b"conflict"
    os.close(said)
    os.wait()


@pytest.mark.parametrize("commit", [plainly, usually])
def test_a_refusal_takes_no_open_call_from_another_thread(store: ms.Store, commit: Commit) -> None:
    assert isinstance(store, SharedStore)
    store._proxy._at_rest.append(store._proxy._attach(time.monotonic() + 30, resent=False))
    event = ms.Event("a", 2, "made", None)
    is_stored, is_sent, is_open = threading.Event(), threading.Event(), threading.Event()

    def leave_open(line: Line, reply: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        reply(line, *arguments)
        is_stored.set()
        is_sent.wait()
        raise InterruptError

    def be_late(line: Line, reply: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        is_sent.set()
        is_open.wait()
        return reply(line, *arguments)

    with ThreadPoolExecutor(2) as threads:
        with replaced("reply", leave_open):
            interrupted = threads.submit(commit, store, event)
            is_stored.wait()
        with replaced("reply", be_late):
            refused = threads.submit(commit, store, event)
            assert isinstance(interrupted.exception(), InterruptError)
            is_open.set()
            assert isinstance(refused.exception(), ms.SequenceConflictError)
    assert commit(store, event) == store.get_events("a", 2)


@pytest.mark.parametrize("commit", [plainly, usually])
def test_a_refusal_after_the_line_broke_leaves_nothing_open_and_tells_of_no_other_error(
    store: ms.Store, commit: Commit
) -> None:
    assert isinstance(store, SharedStore)
    with replaced("reply", break_off), pytest.raises(ms.SequenceConflictError) as refused:
        commit(store, ms.Event("a", 1, "made", "another"))
    assert refused.value.__context__ is None
    assert not store._proxy._open_calls


def test_a_call_that_is_open_keeps_no_other_from_the_plain_way(store: ms.Store) -> None:
    assert isinstance(store, SharedStore)
    with replaced("reply", interrupt), pytest.raises(InterruptError):
        store.commit_events([ms.Event("a", 2, "made", None)])
    store.commit_events([ms.Event("b", 1, "made", None)])  # by a new line
    assert store._proxy.commit_event(("b", 2, None, event_payload()), ignore) == store.get_events("b", 2)
    assert store._proxy.commit_event(("a", 2, None, event_payload()), ignore) is None


def ignore(*_: object) -> None: ...


def event_payload() -> bytes:
    packed = validation.pack_plain(ms.Event("a", 2, "made", None), 1024)
    assert packed is not None
    return packed[3]
