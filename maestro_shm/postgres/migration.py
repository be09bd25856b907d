"""The schema, and how a database gets it: numbered SQL files, each applied once, all in one transaction."""

from __future__ import annotations

from importlib import resources
from typing import Final

import psycopg
from psycopg import sql

from maestro_shm.errors import StoreUnavailableError, shown
from maestro_shm.postgres import faults
from maestro_shm.postgres.location import shown_location, without_secrets

VERSION: Final = 2
"""Of the schema that this package works with: the number of its last migration."""
MOST_PARTITIONS: Final = 1024
_LOCK: Final = 1835102324
_CONNECT_SECONDS: Final = 30
_FIRST_NAME: Final = """SELECT current_schema(), CASE name WHEN '$user' THEN current_user ELSE name END
FROM (SELECT (parse_ident(split_part(current_setting('search_path'), ',', 1)))[1]) first(name)"""


def migrate(url: str, partitions: int | None = None) -> tuple[int, int]:
    """Bring the schema of a database up to date; returns the version that it had, 0 for none, and the one it has.

    With a number of partitions, which counts when the schema is made, events are partitioned by their aggregate.
    Several may do this at once. Raises `StoreUnavailableError` when the database cannot be reached or refuses, and for
    a schema that is newer than this package; `ValueError` for what is no number of partitions.
    """
    if partitions is not None and (type(partitions) is not int or not 1 <= partitions <= MOST_PARTITIONS):
        raise ValueError(f"partitions must be None or an int from 1 to {MOST_PARTITIONS}, not {shown(partitions)}")
    try:
        with psycopg.connect(url, connect_timeout=_CONNECT_SECONDS) as connection:
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # to see what others made meanwhile
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            _make_schema(connection)
            before = version_of(connection)
            if before > VERSION:
                raise StoreUnavailableError(shown_location(url), newer(before))
            for number in range(before + 1, VERSION + 1):
                for statement in _statements(number, partitions):
                    connection.execute(statement.encode())
                connection.execute("UPDATE maestro_head SET schema_version = %s", (number,))
            return before, VERSION
    except psycopg.Error as error:
        reason = without_secrets(faults.reason(error), url)
        raise StoreUnavailableError(shown_location(url), reason) from None


def _make_schema(connection: psycopg.Connection) -> None:
    """Make the first schema of the search path, if none of the path is there."""
    row = connection.execute(_FIRST_NAME).fetchone()
    if row is not None and row[0] is None:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(row[1])))


def version_of(connection: psycopg.Connection) -> int:
    """Of the schema that the first schema of the search path has; 0 where it has none, whatever the others have."""
    row = connection.execute(
        "SELECT to_regclass(quote_ident(current_schema()) || '.maestro_head') IS NOT NULL"
    ).fetchone()
    if not row or not row[0]:
        return 0
    row = connection.execute("SELECT schema_version FROM maestro_head").fetchone()
    return int(row[0]) if row else 0


def newer(version: int) -> str:
    """How a schema of a newer version is refused."""
    return f"its schema has version {version}, and this package knows {VERSION} at most; update maestro-shm"


def older(version: int, location: str) -> str:
    """How a schema that is missing or older is refused."""
    what = f"its schema has version {version}, and this package needs {VERSION}" if version else "it has no tables yet"
    return f"{what}; run: python -m maestro_shm migrate {location}"


def _statements(number: int, partitions: int | None) -> list[str]:
    text = resources.files(__package__).joinpath("migrations", f"{number:04}.sql").read_text(encoding="utf-8")
    text = text.replace("{partitioned}", "PARTITION BY HASH (aggregate_id)" if partitions else "")
    return [text, *(_partition(part, partitions) for part in range(partitions or 0) if partitions and number == 1)]


def _partition(part: int, partitions: int) -> str:
    return (
        f"CREATE TABLE maestro_events_{part} PARTITION OF maestro_events "
        f"FOR VALUES WITH (MODULUS {partitions}, REMAINDER {part})"
    )
