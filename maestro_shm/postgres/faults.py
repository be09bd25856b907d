"""What the driver raises, and what it means: try again, or tell the user."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import errors

_TRY_AGAIN: Final = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.ReadOnlySqlTransaction,  # what was the primary is a standby now; another host may be the primary
    errors.StatementCompletionUnknown,
)
_BROKEN: Final = (
    errors.OperatorIntervention,  # the server shuts down, or has crashed, or somebody ended the session
    errors.ConnectionException,
)
_HOPELESS: Final = (
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
    errors.InsufficientPrivilege,
    errors.QueryCanceled,
)
_OUT_OF_DATE: Final = (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedColumn)


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed soon, on this server or on the one that takes its place."""
    if isinstance(error, _HOPELESS) or is_refusal(error):
        return False
    if isinstance(error, (*_TRY_AGAIN, *_BROKEN)):
        return True
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and error.sqlstate is None


def is_refusal(error: psycopg.Error) -> bool:
    """Whether a connection was refused for what stands in the URL.

    libpq gives no code for what fails while it connects, so the text has to tell.
    """
    text = str(error)
    return any(words in text for words in _REFUSALS)


_REFUSALS: Final = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "could not translate host name",
    "permission denied",
    "invalid connection option",
    'missing "="',
    "invalid port",
    "invalid URI",
)


def lacks_tables(error: psycopg.Error) -> bool:
    """Whether the database has not the tables and functions that were asked for."""
    return isinstance(error, _OUT_OF_DATE)


def reason(error: psycopg.Error) -> str:
    """What the database said, in one line."""
    primary = error.diag.message_primary
    text = f"{primary} (SQLSTATE {error.sqlstate})" if primary else str(error)
    return " ".join(text.split()) or type(error).__name__
