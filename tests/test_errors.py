from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest

import maestro_shm as ms
from maestro_shm import errors


class Example(NamedTuple):
    """An error, its facts, and what its text says."""

    error: ms.MaestroError
    facts: dict[str, Any]
    text: str


EXAMPLES: list[Example] = [
    Example(ms.MaestroError("any", 1), {}, "('any', 1)"),
    Example(ms.StoreError("any"), {}, "any"),
    Example(
        ms.SequenceConflictError("ann", 3, 7),
        {"aggregate_id": "ann", "sequence": 3, "last_sequence": 7},
        "aggregate 'ann' is already at sequence 7, so an event with sequence 3 comes too late; "
        "catch up and evaluate the command again",
    ),
    Example(ms.InvalidEventError("too odd"), {"reason": "too odd", "aggregate_id": None, "sequence": None}, "too odd"),
    Example(
        ms.InvalidEventError("too odd", "ann", -1),
        {"reason": "too odd", "aggregate_id": "ann", "sequence": -1},
        "too odd (aggregate 'ann', sequence -1)",
    ),
    Example(
        ms.StoreUnavailableError("shm:x", "no server"),
        {"target": "shm:x", "reason": "no server"},
        "store 'shm:x': no server",
    ),
    Example(
        ms.StoreClosedError("shm:x"),
        {"target": "shm:x"},
        "store 'shm:x' is closed, or was destroyed; call maestro_shm.connect() for a new handle",
    ),
    Example(
        ms.StoreFullError("/dev/shm/x", 1 << 20, 4096),
        {"directory": "/dev/shm/x", "needed": 1 << 20, "available": 4096},
        "no room in '/dev/shm/x': 1,048,576 bytes needed, 4,096 available; free some space, enlarge the file system "
        "(a container's shared memory: docker run --shm-size=1g), or connect to a path on a larger disk",
    ),
    Example(
        ms.CorruptLogError("/tmp/x/log", 64, "bad checksum"),
        {"path": "/tmp/x/log", "offset": 64, "reason": "bad checksum"},
        "'/tmp/x/log' is damaged at offset 64: bad checksum; "
        "to save what is whole of the store: python -m maestro_shm repair '/tmp/x'",
    ),
    Example(
        ms.TruncatedError("ann", 3, 7),
        {"aggregate_id": "ann", "sequence": 3, "first_sequence": 7},
        "aggregate 'ann' needs its events from sequence 3 on, and those below 7 were truncated; "
        "there is a state only as of a snapshot that covers them, if it is of the same state_version",
    ),
    Example(
        ms.TruncationError("ann", 6, 5),
        {"aggregate_id": "ann", "sequence": 6, "snapshot_sequence": 5},
        "the events of aggregate 'ann' up to sequence 6 cannot be truncated: its snapshot is of sequence 5; "
        "store one that is not older before, as by its root's snapshot()",
    ),
    Example(
        ms.TruncationError("ann", 6, None),
        {"aggregate_id": "ann", "sequence": 6, "snapshot_sequence": None},
        "the events of aggregate 'ann' up to sequence 6 cannot be truncated: there is no snapshot; "
        "store one that is not older before, as by its root's snapshot()",
    ),
    Example(ms.InvalidCommandError("insufficient funds"), {}, "insufficient funds"),
    Example(
        ms.InvalidHandlerError("withdraw"),
        {"type": "withdraw", "reason": "no handler is registered for it"},
        "'withdraw': no handler is registered for it",
    ),
    Example(
        ms.InvalidHandlerError("withdraw", "it returned None"),
        {"type": "withdraw", "reason": "it returned None"},
        "'withdraw': it returned None",
    ),
    Example(
        ms.RetriesExhaustedError("ann", "withdraw", 12, 2.5),
        {"aggregate_id": "ann", "command_type": "withdraw", "attempts": 12, "seconds": 2.5},
        "command 'withdraw' on aggregate 'ann' met a conflict in each of 12 attempts within 2.5 s; "
        "try again later, or raise retry_timeout",
    ),
    Example(
        ms.RetriesExhaustedError(None, "pay", 3, 0.1),
        {"aggregate_id": None, "command_type": "pay", "attempts": 3, "seconds": 0.1},
        "transaction 'pay' met a conflict in each of 3 attempts within 0.1 s; try again later, or raise retry_timeout",
    ),
    Example(ms.ConflictError(), {}, ""),
    Example(
        ms.StaleReadError("ann", None, 3),
        {"aggregate_id": "ann", "read_sequence": None, "last_sequence": 3},
        "aggregate 'ann' is at sequence 3 and was read at None; run the transaction again",
    ),
    Example(
        ms.TableConflictError("names", "ann", -1, 3),
        {"table": "names", "key": "ann", "read_version": -1, "last_version": 3},
        "table 'names', key 'ann', changed from version -1, which was read, to 3; run the transaction again",
    ),
    Example(
        ms.TableConflictError("names", None, 1, 3),
        {"table": "names", "key": None, "read_version": 1, "last_version": 3},
        "the keys of table 'names' changed from version 1, which was read, to 3; run the transaction again",
    ),
    Example(
        ms.SubscriptionError("billing", "it has consumers"),
        {"name": "billing", "reason": "it has consumers"},
        "subscription 'billing': it has consumers",
    ),
    Example(
        ms.ProjectionError("totals", "it is being rebuilt already"),
        {"name": "totals", "reason": "it is being rebuilt already"},
        "projection 'totals': it is being rebuilt already",
    ),
    Example(
        ms.ReadOnlyError("shm:bank at position 5", "a commit"),
        {"target": "shm:bank at position 5", "what": "a commit"},
        "'shm:bank at position 5' is the past and can only be read; a commit is for the store itself",
    ),
    Example(
        ms.InvalidEntryError("too odd"),
        {"reason": "too odd", "table": None, "key": None},
        "too odd",
    ),
    Example(
        ms.InvalidEntryError("value: cannot store it", "names", "ann"),
        {"reason": "value: cannot store it", "table": "names", "key": "ann"},
        "value: cannot store it (table 'names', key 'ann')",
    ),
    Example(ms.TransactionError("it has ended"), {"reason": "it has ended"}, "it has ended"),
]

CLASSES = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ms.MaestroError)),
    key=lambda kind: kind.__name__,
)

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example.error).__name__)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_an_example_here_and_is_public(kind: type[ms.MaestroError]) -> None:
    assert kind in {type(example.error) for example in EXAMPLES}
    assert kind.__name__ in ms.__all__
    assert getattr(ms, kind.__name__) is kind


@every_example
def test_an_error_carries_its_facts_as_attributes(example: Example) -> None:
    assert vars(example.error) == example.facts


@every_example
def test_the_text_of_an_error_is_built_from_its_facts(example: Example) -> None:
    assert str(example.error) == example.text


@every_example
def test_an_error_survives_pickle_with_all_its_facts(example: Example) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(example.error, protocol))
        assert type(again) is type(example.error)
        assert vars(again) == example.facts
        assert again.args == example.error.args
        assert str(again) == example.text


@every_example
def test_an_error_can_be_built_again_from_its_class_and_its_args(example: Example) -> None:
    for again in (type(example.error)(*example.error.args), copy.copy(example.error)):
        assert vars(again) == example.facts
        assert str(again) == example.text


def test_the_text_of_an_error_follows_its_facts() -> None:
    conflict = ms.SequenceConflictError("ann", 3, 7)
    conflict.last_sequence = 1234
    assert "1234" in str(conflict)


@pytest.mark.parametrize(
    ("kind", "parent"),
    [
        (ms.MaestroError, Exception),
        (ms.StoreError, ms.MaestroError),
        (ms.ConflictError, ms.StoreError),
        (ms.SequenceConflictError, ms.ConflictError),
        (ms.StaleReadError, ms.ConflictError),
        (ms.TableConflictError, ms.ConflictError),
        (ms.InvalidEntryError, ms.StoreError),
        (ms.ReadOnlyError, ms.StoreError),
        (ms.ProjectionError, ms.StoreError),
        (ms.SubscriptionError, ms.StoreError),
        (ms.TransactionError, ms.MaestroError),
        (ms.InvalidEventError, ms.StoreError),
        (ms.StoreUnavailableError, ms.StoreError),
        (ms.StoreClosedError, ms.StoreError),
        (ms.StoreFullError, ms.StoreError),
        (ms.CorruptLogError, ms.StoreError),
        (ms.InvalidCommandError, ms.MaestroError),
        (ms.InvalidHandlerError, ms.MaestroError),
        (ms.RetriesExhaustedError, ms.MaestroError),
    ],
)
def test_the_tree_of_errors_is_the_documented_one(kind: type[Exception], parent: type[Exception]) -> None:
    assert kind.__bases__ == (parent,)


@pytest.mark.parametrize("sequence", [10**5000, object(), None], ids=["huge", "object", "None"])
def test_an_invalid_event_error_has_a_text_whatever_the_sequence_was(sequence: object) -> None:
    assert "too odd" in str(ms.InvalidEventError("too odd", "ann", sequence))
