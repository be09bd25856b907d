"""The layout of the package: who may import whom. Read from the source, so that a lazy import counts too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import maestro_shm

PACKAGE: Final = Path(maestro_shm.__file__).parent
NAME: Final = "maestro_shm"

RECORDS: Final = frozenset({"errors", "records"})
RULES: Final = RECORDS | {"clock", "codec", "validation"}

ALLOWED: Final[dict[str, frozenset[str]]] = {
    "errors": frozenset(),
    "records": frozenset(),
    "clock": RECORDS,
    "codec": RECORDS | {"clock"},
    "validation": RECORDS | {"clock", "codec"},
    "store": RULES,
    "memory": RULES | {"store"},
    "handlers": RECORDS,
    "aggregate": RECORDS | {"clock", "validation", "store", "handlers"},
    "connect": RECORDS | {"store", "memory", "shared.directory", "shared.election", "shared.store"},
    # The shared store, from the files up to the handle.
    "shared.creator": frozenset(),
    "shared.handshake": frozenset(),
    "shared.frame": frozenset(),
    "shared.mapped": RECORDS,
    "shared.header": RECORDS | {"shared.mapped"},
    "shared.segments": RECORDS | {"shared.mapped"},
    "shared.positions": RECORDS | {"shared.segments"},
    "shared.log": RECORDS | {"shared.frame", "shared.segments"},
    "shared.index": RECORDS | {"shared.header", "shared.log", "shared.mapped"},
    "shared.recovery": RECORDS
    | {f"shared.{name}" for name in ("frame", "header", "index", "log", "mapped", "positions")},
    "shared.journal": RECORDS | {"clock"} | {f"shared.{name}" for name in ("frame", "header", "recovery")},
    "shared.reader": RECORDS
    | {"codec"}
    | {f"shared.{name}" for name in ("frame", "header", "index", "log", "mapped")},
    # Its processes.
    "shared.wire": RECORDS,
    "shared.transport": RECORDS | {"shared.handshake", "shared.wire"},
    "shared.peer": RECORDS | {"shared.handshake", "shared.wire"},
    "shared.directory": RECORDS | {"shared.creator", "shared.handshake"},
    "shared.launch": RECORDS | {"shared.wire"},
    "shared.election": RECORDS
    | {f"shared.{name}" for name in ("creator", "directory", "header", "launch", "mapped", "transport", "wire")},
    "shared.server": RECORDS
    | {f"shared.{name}" for name in ("creator", "directory", "journal", "launch", "peer", "transport", "wire")},
    "shared.proxy": RECORDS
    | {f"shared.{name}" for name in ("directory", "election", "journal", "transport", "wire")},
    "shared.store": RULES
    | {"store"}
    | {f"shared.{name}" for name in ("creator", "directory", "election", "proxy", "reader", "transport")},
}
"""What each module may import of the package. A new module gets its line here."""

STARTS_PROCESSES: Final = frozenset({"subprocess", "pty"})
ONLY: Final[dict[str, frozenset[str]]] = {
    "mmap": frozenset({"shared.mapped"}),
    **dict.fromkeys(STARTS_PROCESSES, frozenset({"shared.launch"})),
    # Launch imports it for its path only.
    "filelock": frozenset({"shared.election", "shared.launch"}),
}
"""What of outside the package is left to these modules."""

DEPENDENCIES: Final = frozenset({"filelock", "msgpack"})


def modules() -> dict[str, Path]:
    """The modules with rules, by name: all but the public front and the demo."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.name not in ("__init__.py", "__main__.py") and not name.startswith("demo."):
            found[name] = path
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, with the line; `from package import module` counts as that module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import, which no rule here can read"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if _is_module(inner) else str(node.module)


def _is_module(name: str) -> bool:
    parts = name.split(".")
    place = PACKAGE.joinpath(*parts[1:])
    return parts[0] == NAME and (place.with_suffix(".py").exists() or place.is_dir())


def test_every_module_has_its_line_in_the_table() -> None:
    assert set(ALLOWED) == set(modules())


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_imports_point_one_way(module: str) -> None:
    path = modules()[module]
    offenders = [
        f"{path}:{line}: {module} may not import {name.removeprefix(NAME + '.')}, only {sorted(ALLOWED[module])}"
        for line, name in imports(path)
        if name.split(".")[0] == NAME and name.removeprefix(NAME + ".") not in ALLOWED[module]
    ]
    assert not offenders, "\n".join(offenders)


def test_the_table_itself_has_no_circle() -> None:
    done: set[str] = set()
    while ready := {module for module in set(ALLOWED) - done if ALLOWED[module] <= done}:
        done |= ready
    assert not set(ALLOWED) - done, f"these import each other in a circle: {sorted(set(ALLOWED) - done)}"


def test_nobody_but_connect_knows_the_shared_store() -> None:
    offenders = [
        f"{path}:{line}: {module} imports {name}"
        for module, path in modules().items()
        if not module.startswith("shared.") and module != "connect"
        for line, name in imports(path)
        if name.startswith(f"{NAME}.shared")
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("outside", sorted(ONLY))
def test_some_things_are_left_to_one_module(outside: str) -> None:
    offenders = [
        f"{path}:{line}: {outside} is left to {sorted(ONLY[outside])}, {module} is not to import it"
        for module, path in modules().items()
        if module not in ONLY[outside]
        for line, name in imports(path)
        if name.split(".")[0] == outside
    ]
    assert not offenders, "\n".join(offenders)


def test_only_launch_starts_processes() -> None:
    starters = {"Popen", "Process", "Pool", "fork", "forkpty", "popen", "posix_spawn", "posix_spawnp", "system"}
    offenders = [
        f"{path}:{node.lineno}: {module} calls {node.func.attr}()"
        for module, path in modules().items()
        if module != "shared.launch"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in starters
    ]
    assert not offenders, "\n".join(offenders)


def test_the_only_hard_dependencies_are_msgpack_and_filelock() -> None:
    offenders = [
        f"{path}:{line}: {name} is neither of the standard library nor a dependency"
        for path in sorted(PACKAGE.rglob("*.py"))
        if "demo" not in path.parts
        for line, name in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, *DEPENDENCIES, NAME}
    ]
    assert not offenders, "\n".join(offenders)


def test_aggregates_know_only_the_contract() -> None:
    names = {name for _, name in imports(modules()["aggregate"]) if name.startswith(NAME)}
    assert not names & {f"{NAME}.{name}" for name in ("memory", "shared", "connect", "codec")}
