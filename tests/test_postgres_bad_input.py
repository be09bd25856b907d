"""What a PostgreSQL store refuses, with what it says: at once where nothing can be hoped for, and never a password."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest
from postgres_server import PostgresServer, schema_url
from store_contract import event

import maestro_shm as ms
from maestro_shm.postgres.location import shown_location, without_secrets
from maestro_shm.postgres.migration import VERSION, migrate

LONG: Final = 100_000.0
"""Seconds: a call that went on trying would outlast its test."""
PASSWORD: Final = "pa55w0rd-of-nobody"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One with tables, on which a role has a password and no rights."""
    with tempfile.TemporaryDirectory(prefix="maestro-") as name:
        Path(name).chmod(0o755)
        with PostgresServer(Path(name) / "server").running() as made:
            migrate(made.url)
            with made.connect() as connection:
                connection.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'".encode())
                connection.execute("CREATE ROLE ghost")
            made.admit("local all guest scram-sha-256")
            yield made


def url_of(server: PostgresServer, user: str = "maestro", database: str = "postgres", options: str = "") -> str:
    return PostgresServer.url_of(server, user=user, database=database) + options


def refusal(url: str, timeout: float = LONG) -> ms.StoreUnavailableError:
    """How a connect is refused; nothing of it shows the password, however it is shown."""
    with pytest.raises(ms.StoreUnavailableError) as caught:
        ms.connect(url, timeout=timeout).close()
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args) == (type(error), error.args)
    for text in (str(error), repr(error), error.target, pickle.dumps(error).decode("latin-1"), shown_traceback(error)):
        assert PASSWORD not in text
    return error


def shown_traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# Connections that are refused


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://127.0.0.1:port/x",
        "postgresql://127.0.0.1:99999/x",
        "postgresql://127.0.0.1:1/x?nonsense=1",
        "postgresql://127.0.0.1:1/x?nonsense",
        "postgresql://[::1/x",
        "postgresql://127.0.0.1/%zz",
        "postgresql://127.0.0.1:1/x?sslmode=never",
        "postgresql://127.0.0.1:1/x?target_session_attrs=any-at-all",
        "postgresql://127.0.0.1:1/x?keepalives=none",
    ],
)
def test_an_url_that_is_wrong_is_refused_at_once(url: str) -> None:
    refusal(url)
    with pytest.raises(ms.StoreUnavailableError):
        migrate(url)


def test_a_wrong_password_is_refused_at_once(server: PostgresServer) -> None:
    error = refusal(url_of(server, user=f"guest:{PASSWORD}x"))
    assert "password authentication failed" in error.reason
    assert "guest:***@" in error.target


def test_a_missing_password_is_refused_at_once(server: PostgresServer) -> None:
    assert "no password supplied" in refusal(url_of(server, user="guest")).reason


@pytest.mark.parametrize("user", ["nobody", "ghost"])
def test_a_role_that_cannot_log_in_is_refused_at_once(server: PostgresServer, user: str) -> None:
    assert user in refusal(url_of(server, user=user)).reason


def test_a_missing_database_is_refused_at_once(server: PostgresServer) -> None:
    assert 'database "nowhere" does not exist' in refusal(url_of(server, database="nowhere")).reason


def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    error = refusal(f"postgresql://someone:{PASSWORD}@/x?host={tmp_path}", timeout=0.2)
    assert "No such file or directory" in error.reason
    assert "Connection refused" in refusal(f"postgresql://someone:{PASSWORD}@127.0.0.1:1/x", timeout=0.2).reason


def test_a_host_that_refuses_does_not_make_another_one_hopeless(server: PostgresServer, tmp_path: Path) -> None:
    hosts = f"{tmp_path},{server.directory}"
    assert "No such file" in refusal(f"postgresql://nobody@/x?host={hosts}", timeout=0.2).reason
    refusal(f"postgresql://nobody@/x?host={server.directory},{server.directory}")


def test_a_missing_driver_is_told_with_how_to_get_it() -> None:
    source = f"""
import sys
sys.modules["psycopg"] = None
import maestro_shm as ms
try:
    ms.connect("postgresql://someone:{PASSWORD}@host/x")
except ms.StoreUnavailableError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True).stdout
    assert "pip install 'maestro-shm[postgres]'" in said
    assert "someone:***@host" in said
    assert PASSWORD not in said


# Databases that are not a store's


def test_a_database_without_tables_is_refused_with_the_command_that_makes_them() -> None:
    with schema_url() as url:
        error = refusal(url)
        assert error.reason == f"it has no tables yet; run: python -m maestro_shm migrate {shown_location(url)}"


def test_tables_of_a_newer_version_are_refused() -> None:
    with schema_url() as url:
        migrate(url)
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE maestro_head SET schema_version = %s", (VERSION + 1,))
        assert "update maestro-shm" in refusal(url).reason
        with pytest.raises(ms.StoreUnavailableError, match="update maestro-shm"):
            migrate(url)


def test_tables_that_went_while_a_handle_was_open_are_told_of() -> None:
    with schema_url() as url:
        migrate(url)
        with ms.connect(url, timeout=LONG) as store:
            with psycopg.connect(url) as connection:
                connection.execute("DROP TABLE maestro_head, maestro_events CASCADE")
            with pytest.raises(ms.StoreUnavailableError, match="run: python -m maestro_shm migrate"):
                store.last_sequence("a")


def test_a_server_that_is_to_be_read_only_is_refused_at_once(server: PostgresServer) -> None:
    assert (
        "connect to the primary"
        in refusal(url_of(server, options="&options=-cdefault_transaction_read_only%3Don")).reason
    )


def test_a_hot_standby_is_refused_at_once(server: PostgresServer) -> None:
    replica = PostgresServer(server.directory.parent / "replica")
    replica.follow(server)
    with replica.running():
        assert "connect to the primary" in refusal(replica.url).reason


def test_a_role_without_rights_is_refused_at_once(server: PostgresServer) -> None:
    url = url_of(server, user=f"guest:{PASSWORD}")
    assert "permission denied for table maestro_head" in refusal(url).reason
    with server.connect() as connection:
        connection.execute("GRANT SELECT ON maestro_head TO guest")
    with ms.connect(url, timeout=LONG) as store:
        with pytest.raises(ms.StoreUnavailableError, match="permission denied for table maestro_events"):
            store.commit_events([event()])
        with pytest.raises(ms.StoreUnavailableError, match="permission denied for table maestro_events"):
            store.get_events("a")


# Passwords


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:{}@host/x",
        "postgresql://me:{}@host:1,other:2/x?connect_timeout=3",
        "postgresql://me@host/x?password={}&sslmode=prefer",
        "postgresql://me@host/x?sslmode=prefer&sslpassword={}",
        "postgresql://me@host/x?pass%77ord={}",
        "postgresql://me:{}@[::1]:5432/x",
        "postgresql://me:{}@[::1/x",
        "postgresql://me:{}@/x?host=/tmp/a,/tmp/b",
        "postgresql://me:a/{}@host/x",
        "postgresql://me:{}/a@host/x",
        "postgresql://me:{}#a@host/x",
        "postgresql://me:a#{}@host/x",
        "postgresql://me:{}?a@host/x",
        "postgresql://me:a?{}@host/x",
        "postgresql://me:{}@a@host/x",
        "postgresql://me:a@{}@host/x",
        "postgresql://me:a@{}/a@host/x",
        "postgresql://me:{}:a@host:port/x",
        "postgresql://{}",
    ],
)
def test_a_password_is_never_shown_whatever_it_does_to_its_url(url: str) -> None:
    url = url.format(PASSWORD) if url != "postgresql://{}" else "postgresql://me:x@host/%zz"
    assert PASSWORD not in shown_location(url)
    error = refusal(url, timeout=0.2) if "host" in url else None
    assert error is None or PASSWORD not in str(error)
    assert PASSWORD not in without_secrets(f"about {url}, said the driver", url)
    with pytest.raises(ms.StoreUnavailableError) as caught:
        ms.destroy(url)
    assert PASSWORD not in str(caught.value)


def test_an_url_is_shown_as_it_was_given_but_for_its_password() -> None:
    for url in (
        "postgresql:///x",
        "postgresql://me@/x?host=/tmp/a,/tmp/b&target_session_attrs=read-write",
        "postgres://me@[::1]:5432,host:1/x?options=-csearch_path%3Dy",
    ):
        assert shown_location(url) == url


def test_a_handle_shows_no_password(server: PostgresServer) -> None:
    url = url_of(server, user=f"maestro:{PASSWORD}")
    with ms.connect(url, timeout=LONG) as store:
        assert PASSWORD not in f"{store!r} {store.target} {store.at(position=0)!r}"
        errors = []
        for call in (store.reset, lambda: pickle.loads(pickle.dumps(store)).reset()):
            with pytest.raises(ms.StoreUnavailableError) as caught:
                call()
            errors.append(caught.value)
    with pytest.raises(ms.StoreClosedError) as closed:
        store.last_sequence("a")
    assert PASSWORD not in "".join(map(shown_traceback, [*errors, closed.value]))
