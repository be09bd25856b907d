"""The command `migrate`: the tables of a PostgreSQL store, made or brought up to date."""

from __future__ import annotations

import argparse
from typing import Any

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.postgres.driver import make_tables
from maestro_shm.postgres.location import is_location, shown_location


def add_command(commands: Any) -> None:
    """Add `migrate` to the sub-commands of a parser."""
    parser = commands.add_parser(
        "migrate",
        help="make the tables of a PostgreSQL store, or bring them up to date",
        description="Make the tables of a PostgreSQL store in the first schema of the search path, which is made, too, "
        "if there is none; or bring them up to date. What is there stays as it is.",
    )
    parser.add_argument("url", help="postgresql://USER@HOST/DATABASE, as for maestro_shm.connect")
    parser.add_argument(
        "--partitions",
        type=int,
        metavar="N",
        help="keep events in so many hash partitions by their aggregate; fixed when the tables are made",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make or change the tables, and say what was done."""
    if not is_location(options.url):
        raise StoreUnavailableError(options.url, "only a PostgreSQL database has tables; its URL is postgresql://…")
    before, after = make_tables(options.url, options.partitions)
    since_when = "already" if before == after else "now"
    print(f"{shown_location(options.url)} has the tables of version {after} {since_when}")  # noqa: T201 (a command prints)
    return 0
