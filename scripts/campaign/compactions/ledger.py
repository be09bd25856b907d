"""The notes of all pruners, and what looks at their store show, compared: while they go on.

What is due is taken before a look; whatever is there may have been sent until after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import maestro_shm as ms
from campaign.compactions.look import Look, look_at
from campaign.compactions.pruner import Floor, Wrong
from campaign.compactions.stream_book import Due, StreamBook
from campaign.kills.audit import Entry, Outcome, Sent
from campaign.kills.notebook import Notebook
from maestro_shm.shared.frame import EVENT


class Ledger:
    """Of one store."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.events = self.floors = 0
        """How many were acknowledged."""
        self._notebooks: dict[Notebook, int] = {}
        self._streams: defaultdict[str, StreamBook] = defaultdict(StreamBook)

    def follow(self, notebook: Notebook) -> None:
        """Read these notes, too, from now on."""
        self._notebooks[notebook] = notebook.end

    def audit(self, store: ms.Store) -> None:
        """Look at the store, and note what is wrong."""
        self._read_notes()
        due = {name: book.due() for name, book in self._streams.items()}
        try:
            seen = look_at(store, due)
        except ms.StoreError as error:
            self.faults.append(f"cannot be read: {type(error).__name__}: {error}")
            return
        self._read_notes()
        self.faults += self._faults_of(due, seen)
        for book in self._streams.values():
            book.forget_truncated()

    def _read_notes(self) -> None:
        for notebook, start in self._notebooks.items():
            end = notebook.end
            for note in notebook.notes(start, end):
                self._note(note)
            self._notebooks[notebook] = end

    def _note(self, note: Any) -> None:
        if isinstance(note, Wrong):
            self.faults.append(note.text)
        elif isinstance(note, Floor):
            self.floors += note.is_acknowledged
            self._streams[note.aggregate_id].note_floor(note)
        elif isinstance(note, Sent):
            for entry in note.entries:
                self._note_entry(note.outcome, entry)

    def _note_entry(self, outcome: Outcome, entry: Entry) -> None:
        book = self._streams[entry.aggregate_id]
        if entry.kind == EVENT:
            self.events += outcome is Outcome.ACKNOWLEDGED
            self.faults += book.note_event(outcome, entry)
        else:
            book.note_snapshot(outcome, entry)

    def _faults_of(self, due: dict[str, Due], seen: Look) -> Iterator[str]:
        if any(one.position >= other.position for one, other in pairwise(seen.feed)):
            yield "positions in the feed do not rise"
        feed: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in seen.feed:
            feed[entry.aggregate_id].append(entry)
        for name in feed.keys() | due.keys():
            faults = self._streams[name].faults_of_events(due.get(name, Due()), feed[name])
            yield from (f"in the feed, {name}: {fault}" for fault in faults)
        for name, stream in seen.streams.items():
            yield from (f"{name}: {fault}" for fault in self._streams[name].faults_of(due[name], stream))
