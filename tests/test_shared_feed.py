"""The feed of a shared store beside kills, damage, resets, and commits that are under way."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from books import ALL, Books, commit, feed, files_of, kill_everywhere, leave_unpublished, set_word

import maestro_shm as ms
from maestro_shm import validation
from maestro_shm.errors import CorruptLogError, StoreUnavailableError
from maestro_shm.shared import feed as feeds
from maestro_shm.shared import header as head
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import START
from maestro_shm.shared.reader import Reader


def bodies(reader: Reader) -> list[object]:
    return [event.body for event in feed(reader)]


def test_a_commit_that_is_not_published_has_no_place_in_the_feed(books: Books) -> None:
    books.commit(("a", 1, 1), ("b", 1, 2))
    leave_unpublished(books, ("a", 2, None), ("c", 1, None), ("c", 2, None))
    assert bodies(books.reader) == [1, 2]
    # The two words of the last position and of the log's end are not stored at once.
    books.journal._words[head.LAST_POSITION] = 5
    cut = books.reader.cut()
    assert cut.last_position == 2
    books.reopen()
    assert cut.last_position == 2
    assert bodies(books.reader) == [1, 2]
    books.commit(("a", 2, 3))
    assert cut.last_position == 2
    assert bodies(books.reader) == [1, 2, 3]
    books.check()


def test_commits_that_wait_for_the_disk_have_no_place_in_the_feed(tmp_path: Path) -> None:
    with Books(tmp_path, waits_for_disk=True) as books:
        books.commit(("a", 1, 1))
        assert bodies(books.reader) == []
        books.journal.settle()
        commit(books.journal, ("a", 2, 2))
        assert bodies(books.reader) == [1]
        books.journal.settle()
        assert bodies(books.reader) == [1, 2]


def test_a_cut_tells_the_same_last_position_whatever_is_committed_afterwards(books: Books) -> None:
    cuts = []
    for sequence in range(1, 6):
        cuts.append(books.reader.cut())
        books.commit(*(("a", sequence * 10 + number, None) for number in range(sequence)))
    assert [cut.last_position for cut in cuts] == [0, 1, 3, 6, 10]
    assert [sum(map(len, cut.feed(ALL))) for cut in cuts] == [0, 1, 3, 6, 10]


@pytest.mark.lines
def test_the_feed_is_whole_whichever_line_the_server_was_killed_at(books: Books) -> None:
    books.commit(("a", 1, None))
    for step in kill_everywhere(books, lambda: commit(books.journal, ("a", 2, None), ("b", 1, None)), within="_append"):
        found = [(event.aggregate_id, event.sequence) for event in feed(books.reader)]
        assert found in ([("a", 1)], [("a", 1), ("a", 2), ("b", 1)]), step
        if len(found) > 1:
            break


def test_a_position_that_leads_to_another_event_is_damage(books: Books) -> None:
    for sequence in range(1, 4):
        books.commit(("a", sequence, None))
    words = books.journal._files.positions._segments.open(0).words
    words[2] = words[3]
    with pytest.raises(CorruptLogError, match="position 2"):
        feed(books.reader)


def test_a_position_that_leads_nowhere_is_damage(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_REBUILD_PATIENCE", 0.05)
    books.commit(("a", 1, None), ("a", 2, None))
    books.journal._files.positions._segments.open(0).words[1] = 0
    with pytest.raises(CorruptLogError, match=r"positions-1-000000.*position 1 leads nowhere"):
        feed(books.reader)


def test_a_damaged_event_is_no_part_of_the_feed(books: Books) -> None:
    books.commit(("a", 1, "body"))
    books.commit(("a", 2, "body"))
    log = books.journal._files.log
    offset = books.journal._files.positions.offset(2)
    log.write(offset + 40, offset + 40, b"\xff")
    batches = books.reader.cut().feed(ALL)
    with pytest.raises(CorruptLogError, match="CRC"):
        next(batches)


def test_a_feed_waits_for_positions_that_a_new_server_builds_again(books: Books) -> None:
    books.commit(*(("a", number, number) for number in range(1, 100)))
    for kind in ("positions", "index"):
        for name in files_of(books.directory, kind):
            (books.directory / name).unlink()
    later = threading.Timer(0.1, books.reopen)
    later.start()
    try:
        assert bodies(books.reader) == list(range(1, 100))
    finally:
        later.join()
    books.check()


def test_a_feed_that_is_mapped_is_read_to_its_end_after_a_reset(books: Books) -> None:
    for sequence in range(1, 1_200, 100):
        books.commit(*(("a", number, None) for number in range(sequence, sequence + 100)))
    batches = books.reader.cut().feed(ALL)
    first = next(batches)
    books.reset()
    assert len(first) + sum(map(len, batches)) == 1_200


def test_a_feed_that_is_not_mapped_ends_with_a_reset(books: Books) -> None:
    books.commit(("a", 1, None))
    reader = Reader(books.directory)
    cut = reader.cut()
    books.reset()
    books.commit(("b", 1, None))
    with pytest.raises(StoreUnavailableError, match="reset"):
        list(cut.feed(ALL))
    assert [event.aggregate_id for event in feed(reader)] == ["b"]
    reader.close()


def test_a_reader_that_came_too_early_to_a_segment_of_positions_sees_the_right_ones(books: Books) -> None:
    """A server died between the stores of the last position and of the log's end; the next one begins there anew."""
    per_segment = 1 << 17
    positions = books.journal._files.positions
    books.commit(("a", 1, "kept"))
    positions.reserve(per_segment - 1)
    books.journal._written = (*books.journal._written[:2], per_segment - 1, books.journal._written[3])
    leave_unpublished(books, ("a", 2, "undone"))
    early = Reader(books.directory)
    undone = early.view.feed.offset(per_segment)
    books.journal.close()
    set_word(books.directory, head.LAST_POSITION, per_segment)
    books.journal = Journal.open(books.directory, max_commit_bytes=1 << 20)
    assert books.journal.last_position == per_segment - 1
    commit(books.journal, ("a", 2, "real"))
    late = Reader(books.directory)
    assert early.view.feed.offset(per_segment) == late.view.feed.offset(per_segment) != undone
    early.close()
    late.close()


# Times


def test_a_new_server_goes_on_from_the_latest_timestamp(books: Books) -> None:
    for sequence, timestamp in enumerate((500, 100, 200), 1):
        packed = validation.pack_events([ms.Event("a", sequence, "made", None, timestamp=timestamp)], 1000)
        books.journal.commit_events(os.urandom(16), packed, resent=False)
        books.note(("a", sequence, None))
        books.reopen()
    cut = books.reader.cut()
    assert [cut.position_at(time) for time in (499, 500)] == [0, 3]
    books.reboot()
    assert [books.reader.cut().position_at(time) for time in (499, 500)] == [0, 3]
    books.check()


def test_a_server_that_cannot_read_the_latest_timestamp_takes_the_clocks(books: Books) -> None:
    books.commit(("a", 1, "body"))
    clock = books.journal._words[head.CLOCK]
    books.journal._files.log.write(START + 8, START + 8, b"damage")
    books.reopen()
    packed = validation.pack_events([ms.Event("a", 2, "made", None, timestamp=5)], 1000)
    books.journal.commit_events(os.urandom(16), packed, resent=False)
    frame = books.journal._files.log.frame_of(books.journal._files.positions.offset(2))
    assert frame.latest == clock


def test_a_time_that_leads_over_a_damaged_commit_is_not_told(books: Books) -> None:
    books.commit(("a", 1, "body"))
    books.journal._files.log.write(START + 8, START + 8, b"damage")
    with pytest.raises(CorruptLogError):
        books.reader.cut().position_at(10)
    with pytest.raises(CorruptLogError):
        books.reader.cut().until(1)
