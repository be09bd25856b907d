"""The recorders of the `eventsourcing` library, in this process: its own objects and its SQLite.

They are asked the way that suits them: the newest events backwards, with a limit. Its SQLite uses a write-ahead log
by itself and syncs, which costs little where the file is in memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import msgpack
from eventsourcing.persistence import ApplicationRecorder, IntegrityError, StoredEvent
from eventsourcing.popo import POPOApplicationRecorder
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from benchmarks.rivals.rival import Rival
from benchmarks.workload import EVENT_TYPE, READ, body


class _Recorder(Rival):
    stale = IntegrityError

    def open(self) -> None:
        self._recorder = self._make_recorder()

    @abstractmethod
    def _make_recorder(self) -> ApplicationRecorder: ...

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        self._recorder.insert_events(
            [
                StoredEvent(aggregate_id, number, EVENT_TYPE, msgpack.packb(body(number)))
                for number in range(first, first + count)
            ]
        )

    def last_sequence(self, aggregate_id: str) -> int | None:
        events = self._recorder.select_events(aggregate_id, desc=True, limit=1)
        return events[0].originator_version if events else None

    def catch_up(self, aggregate_id: str, last: int) -> Sequence[object]:
        return _decode(self._recorder.select_events(aggregate_id, gt=last))

    def read_last(self, aggregate_id: str, last: int) -> Sequence[object]:  # noqa: ARG002 (the limit does it)
        return _decode(self._recorder.select_events(aggregate_id, desc=True, limit=READ))


class PopoRecorder(_Recorder):
    name = "eventsourcing POPO"

    def _make_recorder(self) -> ApplicationRecorder:
        return POPOApplicationRecorder()

    def close(self) -> None:
        del self._recorder


class SqliteRecorder(_Recorder):
    name = "eventsourcing SQLite"

    def _make_recorder(self) -> ApplicationRecorder:
        self._datastore = SQLiteDatastore(str(self.directory / "events.sqlite"), originator_id_type="text")
        recorder = SQLiteApplicationRecorder(self._datastore)
        recorder.create_table()
        return recorder

    def close(self) -> None:
        self._datastore.close()


def _decode(events: Sequence[StoredEvent]) -> list[tuple[int, str, object]]:
    return [(event.originator_version, event.topic, msgpack.unpackb(event.state)) for event in events]
