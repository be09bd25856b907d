"""The command line: `python -m maestro_shm COMMAND`.

Rules kept here: each sub-command describes itself to the parser and sets `run`, which returns the exit code; an error
of the package is one line on the standard error stream, not a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from maestro_shm import copy, demo, migrate, repair
from maestro_shm.errors import MaestroError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m maestro_shm", description="An event store for many processes.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo.add_command(commands)
    repair.add_command(commands)
    migrate.add_command(commands)
    copy.add_command(commands)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except (MaestroError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 (the command line prints)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
