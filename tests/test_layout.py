from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "maestro_shm"

BASE = {"errors", "records"}
VALUES = BASE | {"clock", "codec", "validation"}
READING = BASE | {"selection", "cut", "tables", "projection", "store", "cut_reads"}
TRANSACTING = READING | {"validation", "workspace", "proposal", "transaction"}
FILES = {"shared.frame", "shared.mapped", "shared.segments", "shared.header", "shared.log", "shared.index"}
WRITER = FILES | {
    "shared.positions",
    "shared.recovery",
    "shared.rows",
    "shared.heads",
    "shared.draft",
    "shared.outcomes",
    "shared.truncation",
    "shared.copyist",
    "shared.succession",
    "shared.writer",
    "shared.journal",
}
SALVAGE = {"shared.damage", "shared.salvage", "shared.survey", "shared.crosscheck"}
LINE = {"shared.handshake", "shared.plain_commit", "shared.wire", "shared.transport"}
PLACE = {"shared.directory", "shared.creator", "shared.handshake"}
RECORDING = BASE | {
    "eventsourcing.datastore",
    "eventsourcing.recorder",
    "eventsourcing.originator_id",
    "eventsourcing.translation",
}

ALLOWED = {
    "errors": set(),
    "records": set(),
    "clock": BASE,
    "options": BASE,
    "packers": set(),
    "codec": BASE | {"packers"},
    "validation": BASE | {"clock", "codec", "options"},
    "selection": BASE,
    "cut": BASE | {"selection"},
    "retries": set(),
    "trace": BASE,
    "vigil": set(),
    "leases": BASE,
    "projection_state": VALUES
    | {"packers", "vigil", "leases", "selection", "cut", "tables", "projection", "subscription"},
    "projector": BASE | {"options", "vigil", "leases", "selection", "tables", "projection", "projection_state"},
    "consumer": BASE,
    "membership": {"leases"},
    "progress": BASE | {"clock", "validation", "selection", "membership", "consumer", "tables"},
    "partition": BASE | {"progress"},
    "partition_reader": BASE | {"cut", "progress", "partition", "subscription"},
    "durable_subscription": BASE
    | {"options", "vigil", "leases", "consumer", "membership", "progress", "partition", "partition_reader"}
    | {"subscription"},
    "subscription": BASE | {"selection", "cut", "options", "vigil"},
    "tables": VALUES,
    "projection": BASE | {"tables"},
    "store": BASE | {"tables", "projection", "retries", "subscription", "consumer", "projector"},
    "proposal": VALUES | {"cut"},
    "workspace": VALUES | {"cut", "proposal"},
    "transaction": VALUES | {"store", "tables", "projection", "workspace"},
    "cut_reads": VALUES | {"selection", "cut", "tables", "store", "arrival"},
    "arrival": BASE | {"vigil", "subscription"},
    "past": READING,
    "aio": BASE | {"options", "vigil", "arrival", "subscription", "projection", "store", "backend", "aggregate"},
    "backend": TRANSACTING
    | {"past", "arrival", "retries", "options", "vigil", "leases", "submissions"}
    | {"subscription", "consumer", "progress", "durable_subscription", "projector"},
    "submissions": VALUES | {"options"},
    "handlers": BASE,
    "aggregate": VALUES | {"store", "trace", "handlers", "projection", "retries"},
    "memory": VALUES | {"options", "selection", "vigil", "leases", "cut", "proposal", "transaction", "backend"},
    "shared.frame": BASE,
    "shared.room": set(),
    "shared.mapped": BASE | {"shared.room"},
    "shared.segments": BASE | FILES - {"shared.log", "shared.index", "shared.header"},
    "shared.header": BASE | {"shared.mapped"},
    "shared.log": BASE | FILES - {"shared.index"},
    "shared.positions": BASE | {"shared.segments"},
    "shared.index": BASE | FILES,
    "shared.recovery": BASE | FILES | {"shared.positions"},
    "shared.rows": VALUES | {"cut", "proposal", "shared.frame"},
    "shared.heads": BASE | FILES,
    "shared.draft": VALUES | {"shared.frame", "shared.heads", "shared.rows"},
    "shared.outcomes": {f"shared.{noun}" for noun in ("frame", "header", "heads", "log", "rows")},
    "shared.copyist": WRITER - {"shared.journal", "shared.writer", "shared.succession"},
    "shared.succession": BASE | WRITER - {"shared.journal", "shared.writer"},
    "shared.writer": VALUES | WRITER | {"shared.room", "shared.living"} - {"shared.journal"},
    "shared.journal": VALUES | WRITER,
    "shared.living": VALUES | FILES | {"shared.floors"},
    "shared.compaction": BASE | FILES | {f"shared.{noun}" for noun in ("recovery", "copyist", "living", "view")},
    "shared.compactor": BASE
    | FILES
    | {f"shared.{noun}" for noun in ("wire", "launch", "election", "proxy", "file_leases", "compaction")},
    "shared.key_list": VALUES | FILES | {"cut"},
    "shared.file_leases": BASE | {"leases"},
    "shared.feed": VALUES | FILES | {"selection", "cut", "shared.positions"},
    "shared.truncation": {"shared.frame", "shared.log"},
    "shared.floors": FILES,
    "shared.view": VALUES
    | FILES
    | {"cut"}
    | {f"shared.{noun}" for noun in ("positions", "key_list", "feed", "floors", "truncation")},
    "shared.log_cut": BASE | {"cut", "selection", "shared.log", "shared.feed", "shared.view"},
    "shared.reader": BASE | FILES | {"shared.truncation", "shared.view", "shared.log_cut"},
    "shared.damage": set(),
    "shared.salvage": BASE | FILES | {"options"},
    "shared.survey": BASE | FILES | {"shared.salvage", "options"},
    "shared.crosscheck": BASE | FILES | {"shared.positions", "shared.salvage", "shared.damage"},
    "shared.diagnosis": BASE | WRITER | SALVAGE | {"options"},
    "shared.rebuild": VALUES | WRITER | PLACE | SALVAGE | {"shared.diagnosis"},
    "shared.repair": BASE | WRITER | PLACE | SALVAGE | {"shared.diagnosis", "shared.rebuild", "shared.election"},
    "repair": BASE | {"connect", "memory", "shared.store", "shared.damage", "shared.repair", "postgres.location"},
    "shared.creator": set(),
    "shared.handshake": set(),
    "shared.plain_commit": set(),
    "shared.own_process": set(),
    "shared.wire": BASE | {"packers", "options", "shared.plain_commit"},
    "shared.processor": set(),
    "shared.watch": {"shared.processor"},
    "shared.mailboxes": BASE | {"shared.mapped"},
    "shared.incoming": {"shared.mailboxes", "shared.processor", "shared.watch"},
    "shared.transport": BASE | LINE | {"shared.watch", "shared.mailboxes", "options"},
    "shared.directory": BASE | PLACE | {"options", "shared.mapped"},
    "shared.places": BASE | PLACE | {"shared.room"},
    "shared.peer": BASE | LINE,
    "shared.launch": BASE | {"shared.wire"},
    "shared.complaints": set(),
    "shared.waiting": {"shared.peer"},
    "shared.stream_terms": set(),
    "shared.stream_turns": BASE | {"shared.frame", "shared.peer", "shared.stream_terms"},
    "shared.rivalry": {"shared.stream_terms"},
    "shared.turn_attempts": {"retries", "shared.proxy", "shared.rivalry", "shared.stream_terms"},
    "shared.server": BASE
    | WRITER
    | LINE
    | PLACE
    | {"shared.peer", "shared.waiting", "shared.incoming", "shared.mailboxes", "shared.complaints"}
    | {"shared.stream_turns", "shared.door", "shared.compaction_duty"},
    "shared.door": {"shared.peer", "shared.transport"},
    "shared.compaction_duty": BASE | {"shared.launch", "shared.complaints", "shared.journal"},
    "shared.process": BASE
    | WRITER
    | LINE
    | PLACE
    | {"options", "shared.server", "shared.mailboxes", "shared.launch", "shared.complaints"},
    "shared.election": BASE | FILES | LINE | PLACE | {"shared.launch"},
    "open_calls": BASE,
    "turns": set(),
    "shared.proxy": BASE
    | LINE
    | PLACE
    | {"codec", "options", "vigil", "open_calls", "shared.election", "shared.rows"}
    | {"shared.rivalry", "shared.own_process"},
    "shared.store": VALUES
    | {"options", "vigil", "leases", "shared.file_leases"}
    | LINE
    | PLACE
    | {"backend", "cut", "proposal", "transaction", "submissions"}
    | {"shared.proxy", "shared.election", "shared.launch", "shared.reader", "shared.places", "shared.rows"}
    | {"shared.turn_attempts"},
    "postgres.columns": set(),
    "postgres.location": set(),
    "postgres.driver": BASE | {"postgres.location", "postgres.migration"},
    "postgres.faults": set(),
    "postgres.migration": BASE | {"postgres.faults", "postgres.location"},
    "postgres.pool": {"turns"},
    "postgres.connections": BASE
    | {"turns"}
    | {f"postgres.{noun}" for noun in ("faults", "location", "migration", "pool")},
    "postgres.commits": VALUES | {"cut", "proposal", "postgres.columns"},
    "postgres.sql_cut": VALUES | {"cut", "selection", "postgres.columns", "postgres.connections"},
    "postgres.advisory_leases": BASE | {"leases"} | {f"postgres.{noun}" for noun in ("faults", "connections", "pool")},
    "postgres.listener": BASE | {"vigil"} | {f"postgres.{noun}" for noun in ("faults", "connections", "pool")},
    "postgres.store": VALUES
    | {"options", "vigil", "leases", "open_calls", "backend", "cut", "proposal", "transaction"}
    | {"postgres.commits", "postgres.connections", "postgres.sql_cut", "postgres.listener", "postgres.advisory_leases"},
    "connect": BASE
    | {"options", "store", "memory", "shared.store", "shared.election", "shared.places"}
    | {"postgres.driver", "postgres.location", "postgres.store"},
    "ahead": set(),
    "side_by_side": set(),
    "copy_mark": VALUES | {"cut"},
    "transfer": VALUES | {"cut", "proposal", "backend", "ahead", "side_by_side", "copy_mark"},
    "verification": BASE | {"cut", "ahead", "side_by_side", "copy_mark", "transfer"},
    "copying": BASE | {"cut", "backend", "copy_mark", "transfer", "verification"},
    "bar": set(),
    "copy": BASE
    | {"options", "backend", "connect", "memory", "shared.store", "shared.directory", "postgres.location"}
    | {"bar", "copying", "verification"},
    "migrate": BASE | {"postgres.driver", "postgres.location"},
    "eventsourcing.target": {"postgres.location"},
    "eventsourcing.settings": BASE | {"options", "connect", "eventsourcing.target"},
    "eventsourcing.translation": BASE,
    "eventsourcing.originator_id": BASE,
    "eventsourcing.turns": {"turns"},
    "eventsourcing.datastore": BASE
    | {"backend", "connect", "transaction", "postgres.driver", "postgres.location"}
    | {"eventsourcing.settings", "eventsourcing.translation", "eventsourcing.turns"},
    "eventsourcing.recorder": {"eventsourcing.datastore"},
    "eventsourcing.aggregate_recorder": RECORDING,
    "eventsourcing.snapshot_recorder": RECORDING | {"validation", "transaction", "eventsourcing.aggregate_recorder"},
    "eventsourcing.subscription": RECORDING | {"store"},
    "eventsourcing.application_recorder": RECORDING
    | {"eventsourcing.aggregate_recorder", "eventsourcing.subscription"},
    "eventsourcing.tracked_commit": VALUES | {"backend", "proposal", "retries", "transaction"},
    "eventsourcing.tracking_recorder": RECORDING | {"transaction", "vigil", "eventsourcing.tracked_commit"},
    "eventsourcing.process_recorder": RECORDING
    | {f"eventsourcing.{noun}" for noun in ("application_recorder", "tracked_commit", "tracking_recorder")},
    "eventsourcing.factory": BASE
    | {"eventsourcing.settings", "eventsourcing.datastore"}
    | {f"eventsourcing.{kind}_recorder" for kind in ("aggregate", "snapshot", "application", "tracking", "process")},
}
ONLY_THERE = {
    "mmap": {"shared.own_process", "shared.mapped", "shared.log"},  # the log for the name of the type
    "subprocess": {"shared.launch"},
    "fcntl": {"shared.directory", "shared.file_leases"},
    "psycopg": {
        "postgres.driver",
        "postgres.migration",
        "postgres.connections",
        "postgres.pool",
        "postgres.faults",
        "postgres.advisory_leases",
        "postgres.listener",
    },
    "filelock": {"shared.election", "shared.launch"},
    "msgpack": {"codec", "packers", "shared.wire", "shared.launch"},
    "pickle": set[str](),
    "multiprocessing": {"shared.transport", "shared.server", "shared.proxy", "shared.launch"},
    "eventsourcing": {
        f"eventsourcing.{module}"
        for module in (
            "settings",
            "translation",
            "originator_id",
            "datastore",
            "tracked_commit",
            "subscription",
            "factory",
        )
    }
    | {f"eventsourcing.{kind}_recorder" for kind in ("aggregate", "snapshot", "application", "tracking", "process")},
}


def modules() -> dict[str, Path]:
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.startswith("demo") and "__" not in name}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def own_imports(path: Path) -> set[str]:
    return {name.removeprefix("maestro_shm.") for name in imported(path) if name.startswith("maestro_shm.")} & {
        *ALLOWED
    }


def test_every_module_has_its_place_in_the_order_of_imports() -> None:
    assert modules().keys() == ALLOWED.keys()


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_imports_point_one_way(module: str) -> None:
    ours = own_imports(modules()[module])
    assert ours <= ALLOWED[module], f"{module} must not import {sorted(ours - ALLOWED[module])}"


@pytest.mark.parametrize("library", sorted(ONLY_THERE))
def test_a_library_is_used_only_where_it_belongs(library: str) -> None:
    users = {
        module
        for module, path in modules().items()
        if any(name == library or name.startswith(f"{library}.") for name in imported(path))
    }
    assert users == ONLY_THERE[library]


def test_no_two_modules_import_each_other() -> None:
    edges = {(module, name) for module, path in modules().items() for name in own_imports(path)}
    assert {(one, other) for one, other in edges if (other, one) in edges} == set()
