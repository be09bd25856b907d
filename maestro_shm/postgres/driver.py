"""The way to what needs the driver, which is an extra: nobody else has to have it."""

from __future__ import annotations

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.postgres.location import shown_location


def check_driver(url: str) -> None:
    """Raise `StoreUnavailableError` if it cannot be imported."""
    try:
        import psycopg  # noqa: F401, PLC0415 (whether it can be is the question)
    except ImportError as error:
        reason = f"it needs psycopg ({error}): pip install 'maestro-shm[postgres]'"
        raise StoreUnavailableError(shown_location(url), reason) from None


def make_tables(url: str, partitions: int | None = None) -> tuple[int, int]:
    """See `maestro_shm.postgres.migration.migrate`. Raises as that and `check_driver` do."""
    check_driver(url)
    from maestro_shm.postgres.migration import migrate  # noqa: PLC0415

    return migrate(url, partitions)
