"""What the driver raises, and what it means: try again, or tell the user."""

from __future__ import annotations

import re
from typing import Final

import psycopg

_TRANSIENT: Final = (
    "08",  # the connection broke
    "57P",  # the server shuts down, or has crashed, or somebody ended the session
    "40",  # a deadlock, or who knows what became of it
    "25006",  # what was the primary is a standby now; another host may be the primary
    "53300",  # too many connections
)
"""What codes of the database begin with. (The driver's classes do not tell of which kind they are.)"""
_OUT_OF_DATE: Final = ("42P01", "42883", "42703")
"""A table, a function or a column is not there."""


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed soon, on this server or on the one that takes its place."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith(_TRANSIENT)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_refusal(error)


def is_refusal(error: psycopg.Error) -> bool:
    """Whether a connection was refused for what stands in the URL, by every host that stands there.

    libpq gives no code for what fails while it connects, so the text has to tell.
    """
    _, *tries = str(error).split(_TRY)
    return all(map(_is_refusal, tries or [str(error)]))


def _is_refusal(text: str) -> bool:
    return _REFUSAL.search(text) is not None and _FOR_NOW not in text


_TRY: Final = "\n- host: "
"""How the driver begins what it says of each host, where there are several."""
_REFUSALS: Final = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    r"no pg_hba\.conf entry",
    "could not translate host name",
    "failed to resolve host",
    "could not match [0-9]+ host names",
    "[Pp]ermission denied",  # of a database, or a socket
    "is not permitted to log in",
    "does not support SSL",
    "certificate verify failed",
    "invalid connection option",
    'missing "="',
    "invalid port",
    "invalid URI",
    "invalid [a-z_]+ value: ",
    "for connection option ",
)
_REFUSAL: Final = re.compile("|".join(_REFUSALS))
_FOR_NOW: Final = "Temporary failure in name resolution"


def lacks_tables(error: psycopg.Error) -> bool:
    """Whether the database has not the tables and functions that were asked for."""
    return error.sqlstate in _OUT_OF_DATE


def reason(error: psycopg.Error) -> str:
    """What the database said, in one line."""
    primary = error.diag.message_primary
    text = f"{primary} (SQLSTATE {error.sqlstate})" if primary else str(error)
    return " ".join(text.split()) or type(error).__name__
