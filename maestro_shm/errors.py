"""The errors of this package, all under `MaestroError`.

Rules kept here: every error hands all its facts to `Exception.__init__`, so that it survives `pickle` and the wire
(both rebuild it as `cls(*args)`), carries them as attributes, and builds its text from them when asked.
"""

from __future__ import annotations

_LONGEST_SHOWN = 200


def shown(value: object) -> str:
    """A value as an error's text shows it: never too long, and never itself the cause of an error.

    (Python refuses to print an int of over 4,300 digits, and the `repr` of somebody's object may do anything.)
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 (see above)
        return f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


class MaestroError(Exception):
    """Base of every error that this package raises on its own account."""


class StoreError(MaestroError):
    """Base of what a store refuses or fails to do."""


class ConflictError(StoreError):
    """Somebody else was faster: what a commit was decided by is no longer so. Nothing of the commit was stored."""


class SequenceConflictError(ConflictError):
    """A writer is behind: the event's sequence number is not above the last one stored for its aggregate.

    Nothing of the commit was stored. Catch up with the aggregate and evaluate the command again, as
    `Aggregate.evaluate` does by itself. This is the `:retry_command` of Elixir's Maestro.
    """

    def __init__(self, aggregate_id: str, sequence: int, last_sequence: int) -> None:
        super().__init__(aggregate_id, sequence, last_sequence)
        self.aggregate_id = aggregate_id
        self.sequence = sequence
        self.last_sequence = last_sequence

    def __str__(self) -> str:
        return (
            f"aggregate {self.aggregate_id!r} is already at sequence {self.last_sequence}, "
            f"so an event with sequence {self.sequence} comes too late; catch up and evaluate the command again"
        )


class StaleReadError(ConflictError):
    """A transaction has read from a stream that others have written to since.

    `last_sequence` is that of the stream's last event by now; None if there is none, since the store was reset.
    """

    def __init__(self, aggregate_id: str, read_sequence: int | None, last_sequence: int | None) -> None:
        super().__init__(aggregate_id, read_sequence, last_sequence)
        self.aggregate_id = aggregate_id
        self.read_sequence = read_sequence
        self.last_sequence = last_sequence

    def __str__(self) -> str:
        return (
            f"aggregate {self.aggregate_id!r} is at sequence {self.last_sequence} and was read at "
            f"{self.read_sequence}; run the transaction again"
        )


class TableConflictError(ConflictError):
    """An entry of a table was changed since it was read; or, where `key` is None, others came into it or went.

    Versions count changes from 0; -1 stands for what has never been there.
    """

    def __init__(self, table: str, key: str | None, read_version: int, last_version: int) -> None:
        super().__init__(table, key, read_version, last_version)
        self.table = table
        self.key = key
        self.read_version = read_version
        self.last_version = last_version

    def __str__(self) -> str:
        what = f"the keys of table {self.table!r}" if self.key is None else f"table {self.table!r}, key {self.key!r},"
        return (
            f"{what} changed from version {self.read_version}, which was read, to {self.last_version}; "
            "run the transaction again"
        )


class InvalidEntryError(StoreError):
    """The name of a table, a key or a value breaks a rule of the data; nothing was changed."""

    def __init__(self, reason: str, table: object = None, key: object = None) -> None:
        super().__init__(reason, table, key)
        self.reason = reason
        self.table = table
        self.key = key

    def __str__(self) -> str:
        if self.table is None:
            return self.reason
        return f"{self.reason} (table {shown(self.table)}, key {shown(self.key)})"


class InvalidEventError(StoreError):
    """An event, a snapshot or an argument of a read breaks a rule of the data; nothing was changed.

    `reason` says which rule, with the value that broke it; `aggregate_id` and `sequence` say where, if known.
    """

    def __init__(self, reason: str, aggregate_id: object = None, sequence: object = None) -> None:
        super().__init__(reason, aggregate_id, sequence)
        self.reason = reason
        self.aggregate_id = aggregate_id
        self.sequence = sequence

    def __str__(self) -> str:
        if self.aggregate_id is None:
            return self.reason
        return f"{self.reason} (aggregate {shown(self.aggregate_id)}, sequence {shown(self.sequence)})"


class StoreUnavailableError(StoreError):
    """The store cannot be reached or used: no server, a wrong directory, an unknown target."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(target, reason)
        self.target = target
        self.reason = reason

    def __str__(self) -> str:
        return f"store {self.target!r}: {self.reason}"


class StoreClosedError(StoreError):
    """The handle was closed, or its store was destroyed; connect again."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target

    def __str__(self) -> str:
        return f"store {self.target!r} is closed, or was destroyed; call maestro_shm.connect() for a new handle"


class StoreFullError(StoreError):
    """There is no room for a commit. Nothing of it was stored; reads go on; commits work again once there is room.

    `needed` and `available` are bytes on the file system of `directory`.
    """

    def __init__(self, directory: str, needed: int, available: int) -> None:
        super().__init__(directory, needed, available)
        self.directory = directory
        self.needed = needed
        self.available = available

    def __str__(self) -> str:
        return (
            f"no room in {self.directory!r}: {self.needed:,} bytes needed, {self.available:,} available; "
            "free some space, enlarge the file system (a container's shared memory: docker run --shm-size=1g), "
            "or connect to a path on a larger disk"
        )


class CorruptLogError(StoreError):
    """Bytes of a store's file are not what was written there."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(path, offset, reason)
        self.path = path
        self.offset = offset
        self.reason = reason

    def __str__(self) -> str:
        directory = self.path.rpartition("/")[0] or "."
        return (
            f"{self.path!r} is damaged at offset {self.offset}: {self.reason}; "
            f"to save what is whole of the store: python -m maestro_shm repair {directory!r}"
        )


class InvalidCommandError(MaestroError):
    """Raised by a command handler to refuse a command; it reaches the caller of `evaluate`, nothing is committed."""


class InvalidHandlerError(MaestroError):
    """An aggregate lacks the handler for a command's or event's type, or a handler breaks its contract."""

    def __init__(self, type: str, reason: str = "no handler is registered for it") -> None:  # noqa: A002 (public name)
        super().__init__(type, reason)
        self.type = type
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.type!r}: {self.reason}"


class RetriesExhaustedError(MaestroError):
    """A command or transaction met conflicts until its deadline passed; nothing of it was stored.

    Of a transaction `aggregate_id` is None and `command_type` the name of its function. `attempts` counts evaluations,
    `seconds` is the time they took together.
    """

    def __init__(self, aggregate_id: str | None, command_type: str, attempts: int, seconds: float) -> None:
        super().__init__(aggregate_id, command_type, attempts, seconds)
        self.aggregate_id = aggregate_id
        self.command_type = command_type
        self.attempts = attempts
        self.seconds = seconds

    def __str__(self) -> str:
        what = f"command {self.command_type!r} on aggregate {self.aggregate_id!r}"
        if self.aggregate_id is None:
            what = f"transaction {self.command_type!r}"
        return (
            f"{what} met a conflict in each of {self.attempts} attempts within {self.seconds:.1f} s; "
            "try again later, or raise retry_timeout"
        )


class TruncatedError(StoreError):
    """Events that are needed to recreate an aggregate were truncated, and no usable snapshot has what they did.

    Those from `sequence` on were wanted; what is left begins at `first_sequence`.
    """

    def __init__(self, aggregate_id: str, sequence: int, first_sequence: int) -> None:
        super().__init__(aggregate_id, sequence, first_sequence)
        self.aggregate_id = aggregate_id
        self.sequence = sequence
        self.first_sequence = first_sequence

    def __str__(self) -> str:
        return (
            f"aggregate {self.aggregate_id!r} needs its events from sequence {self.sequence} on, and those below "
            f"{self.first_sequence} were truncated; there is a state only as of a snapshot that covers them, if it is "
            "of the same state_version"
        )


class TruncationError(StoreError):
    """Events cannot be truncated, since the aggregate's snapshot does not cover them all; nothing was changed.

    `sequence` is that of the newest event that was to go, `snapshot_sequence` the snapshot's, or None without any.
    """

    def __init__(self, aggregate_id: str, sequence: int, snapshot_sequence: int | None) -> None:
        super().__init__(aggregate_id, sequence, snapshot_sequence)
        self.aggregate_id = aggregate_id
        self.sequence = sequence
        self.snapshot_sequence = snapshot_sequence

    def __str__(self) -> str:
        there = "there is no snapshot"
        if self.snapshot_sequence is not None:
            there = f"its snapshot is of sequence {self.snapshot_sequence}"
        return (
            f"the events of aggregate {self.aggregate_id!r} up to sequence {self.sequence} cannot be truncated: "
            f"{there}; store one that is not older before, as by its root's snapshot()"
        )


class ReadOnlyError(StoreError):
    """Something was asked of a view of a store's past that only the store itself can do."""

    def __init__(self, target: str, what: str) -> None:
        super().__init__(target, what)
        self.target = target
        self.what = what

    def __str__(self) -> str:
        return f"{self.target!r} is the past and can only be read; {self.what} is for the store itself"


class SubscriptionError(StoreError):
    """A durable subscription does not exist, or is used otherwise than it can be."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"subscription {self.name!r}: {self.reason}"


class ProjectionError(StoreError):
    """An eventual projection is used otherwise than it can be."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"projection {self.name!r}: {self.reason}"


class TransactionError(MaestroError):
    """A transaction is used in a way that would break its promise: `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
