"""The errors of a store as those of the library."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
)

from maestro_shm import errors

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

_TRANSLATIONS: Final[tuple[tuple[type[errors.MaestroError], type[PersistenceError]], ...]] = (
    (errors.ConflictError, IntegrityError),
    (errors.InvalidEventError, DataError),
    (errors.InvalidEntryError, DataError),
    (errors.CorruptLogError, InternalError),
    (errors.StoreClosedError, ProgrammingError),
    (errors.TransactionError, ProgrammingError),
    (errors.StoreUnavailableError, OperationalError),
    (errors.StoreFullError, OperationalError),
    (errors.RetriesExhaustedError, OperationalError),
)


def translating(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Let the function raise errors of the library in place of ours, which are their causes.

    `IntegrityError` for a conflict, `DataError` for what breaks a rule of the data, `OperationalError` for a store that
    cannot be reached or is full, `InternalError` for a damaged one, `ProgrammingError` for one that is closed.
    """

    @functools.wraps(function)
    def translated(*arguments: _Params.args, **named: _Params.kwargs) -> _Result:
        try:
            return function(*arguments, **named)
        except errors.MaestroError as error:
            raise translation(error) from error

    return translated


def translation(error: errors.MaestroError) -> PersistenceError:
    """The library's error for one of ours, with the same text."""
    kind = next((theirs for ours, theirs in _TRANSLATIONS if isinstance(error, ours)), PersistenceError)
    return kind(str(error))
