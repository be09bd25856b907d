"""The demo's aggregates: every airport and every aircraft, with totals worth looking at.

Rules kept here: delays are whole minutes, and being early counts negative; what is not known adds nothing. Miles and
minutes in the air count for flights that arrived where they should. Workers finish flights out of order, so the last
known airport goes by the number of the flight and not by the order of the events.
"""

from __future__ import annotations

from typing import Any

import maestro_shm as ms

PLACES = "places"
FLIGHTS = "flights"

_State = dict[str, Any]


def _counted(state: _State, **amounts: int | None) -> _State:
    return {**state, **{name: state[name] + (amount or 0) for name, amount in amounts.items()}}


class Airport(ms.Aggregate):
    """What happened at one airport. The three of New York are hot: every worker writes to them all the time."""

    snapshot_every = 50
    initial_state = {  # noqa: RUF012 (copied for every root, never changed)
        "departures": 0,
        "arrivals": 0,
        "cancellations": 0,
        "diversions": 0,
        "departure_delay": 0,
        "arrival_delay": 0,
    }

    @ms.on_command("depart")
    def depart(self, command: ms.Command) -> list[ms.NewEvent]:
        """A flight leaves."""
        return [ms.NewEvent("departed", command.data)]

    @ms.on_command("arrive")
    def arrive(self, command: ms.Command) -> list[ms.NewEvent]:
        """A flight arrives."""
        return [ms.NewEvent("arrived", command.data)]

    @ms.on_command("cancel")
    def cancel(self, command: ms.Command) -> list[ms.NewEvent]:
        """A flight from here will not take place."""
        return [ms.NewEvent("cancelled", command.data)]

    @ms.on_command("divert")
    def divert(self, command: ms.Command) -> list[ms.NewEvent]:
        """A flight to here ends elsewhere."""
        return [ms.NewEvent("diverted", command.data)]

    @ms.on_event("departed")
    @staticmethod
    def departed(state: _State, event: ms.Event) -> _State:
        """Count it."""
        return _counted(state, departures=1, departure_delay=event.body["delay"])

    @ms.on_event("arrived")
    @staticmethod
    def arrived(state: _State, event: ms.Event) -> _State:
        """Count it."""
        return _counted(state, arrivals=1, arrival_delay=event.body["delay"])

    @ms.on_event("cancelled")
    @staticmethod
    def cancelled(state: _State, _event: ms.Event) -> _State:
        """Count it."""
        return _counted(state, cancellations=1)

    @ms.on_event("diverted")
    @staticmethod
    def diverted(state: _State, _event: ms.Event) -> _State:
        """Count it."""
        return _counted(state, diversions=1)


class Places:
    """A strong projection: a table with where every aircraft was seen last, and another with by which flight.

    Both change in the commit of the flight. The second is there since flights are finished out of order.
    """

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        """Note where the aircraft is, unless a later flight has been noted."""
        if event.type == "cancelled" or event.body["number"] <= tables[FLIGHTS].get(event.aggregate_id, 0):
            return
        tables[FLIGHTS][event.aggregate_id] = event.body["number"]
        tables[PLACES][event.aggregate_id] = event.body["destination" if event.type == "flown" else "origin"]


class Aircraft(ms.Aggregate):
    """What one aircraft did, and where it was seen last."""

    projections = (Places(),)
    initial_state = {  # noqa: RUF012 (copied for every root, never changed)
        "departures": 0,
        "arrivals": 0,
        "cancellations": 0,
        "diversions": 0,
        "departure_delay": 0,
        "arrival_delay": 0,
        "miles": 0,
        "minutes": 0,
        "last_flight": 0,
        "last_airport": None,
    }

    @ms.on_command("fly")
    def fly(self, command: ms.Command) -> list[ms.NewEvent]:
        """It takes off, and lands where it should or elsewhere."""
        return [ms.NewEvent("flown" if command.data["arrived"] else "diverted", command.data)]

    @ms.on_command("cancel")
    def cancel(self, command: ms.Command) -> list[ms.NewEvent]:
        """It stays on the ground."""
        return [ms.NewEvent("cancelled", command.data)]

    @ms.on_event("flown")
    @staticmethod
    def flown(state: _State, event: ms.Event) -> _State:
        """Count it; the aircraft is at the flight's destination."""
        flight = event.body
        state = _counted(state, arrivals=1, arrival_delay=flight["arrival_delay"])
        state = _counted(state, miles=flight["miles"], minutes=flight["minutes"])
        return _seen(_left(state, flight), flight, flight["destination"])

    @ms.on_event("diverted")
    @staticmethod
    def diverted(state: _State, event: ms.Event) -> _State:
        """Count it; of where the aircraft is, its origin is the last that is known."""
        state = _counted(_left(state, event.body), diversions=1)
        return _seen(state, event.body, event.body["origin"])

    @ms.on_event("cancelled")
    @staticmethod
    def cancelled(state: _State, _event: ms.Event) -> _State:
        """Count it; whether the aircraft had come to the airport at all, nobody wrote down."""
        return _counted(state, cancellations=1)


def _left(state: _State, flight: dict[str, Any]) -> _State:
    return _counted(state, departures=1, departure_delay=flight["departure_delay"])


def _seen(state: _State, flight: dict[str, Any], airport: str) -> _State:
    if flight["number"] <= state["last_flight"]:
        return state
    return {**state, "last_flight": flight["number"], "last_airport": airport}
