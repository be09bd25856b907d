"""Applications of the `eventsourcing` library as its users write them; any process finds them here by their topics."""

from __future__ import annotations

from typing import ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import AggregateNotFoundError, Application, ProcessingEvent
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, DomainEventProtocol, event
from eventsourcing.persistence import IntegrityError, Tracking
from eventsourcing.projection import Projection
from eventsourcing.system import ProcessApplication

from maestro_shm import Transaction
from maestro_shm.eventsourcing import MaestroTrackingRecorder


class Order(Aggregate):
    def __init__(self, name: str) -> None:
        self.name = name
        self.items = 0

    @staticmethod
    def create_id(name: str) -> UUID:
        return uuid5(NAMESPACE_URL, name)

    @event("Added")
    def add(self) -> None:
        self.items += 1


class Orders(Application[UUID]):
    snapshotting_intervals: ClassVar = {Order: 10}

    def open(self, name: str) -> int:
        """The id of the last notification."""
        return self.save(Order(name))[-1].notification.id

    def add(self, name: str) -> int:
        order: Order = self.repository.get(Order.create_id(name))
        order.add()
        return self.save(order)[-1].notification.id

    def add_surely(self, name: str) -> int:
        while True:
            try:
                return self.add(name)
            except IntegrityError:  # others were faster
                continue

    def items(self, name: str) -> int:
        order: Order = self.repository.get(Order.create_id(name))
        return order.items


class Tally(Aggregate):
    def __init__(self) -> None:
        self.count = 0

    @staticmethod
    def create_id() -> UUID:
        return uuid5(NAMESPACE_URL, "tally")

    @event("Counted")
    def count_one(self) -> None:
        self.count += 1


class Bookkeeping(ProcessApplication[UUID]):
    """Counts what is added to orders."""

    @singledispatchmethod
    def policy(self, domain_event: DomainEventProtocol[UUID], processing_event: ProcessingEvent[UUID]) -> None:
        if type(domain_event).__name__ == "Added":
            tally = self._tally()
            tally.count_one()
            processing_event.collect_events(tally)

    def count(self) -> int:
        return self._tally().count

    def _tally(self) -> Tally:
        try:
            tally: Tally = self.repository.get(Tally.create_id())
        except AggregateNotFoundError:
            return Tally()
        return tally


class Counts(MaestroTrackingRecorder):
    """A view that keeps its figures in a table."""

    def count(self, kind: str, tracking: Tracking) -> None:
        def add(transaction: Transaction) -> None:
            table = transaction.table("counts")
            table[kind] = table.get(kind, 0) + 1
            self.track(transaction, tracking)

        self.datastore.transact(add)

    def counted(self, kind: str) -> int:
        counted: int = self.datastore.store.table("counts").get(kind, 0)
        return counted


class Counting(Projection[Counts]):
    name = "counting"

    @singledispatchmethod
    def process_event(self, domain_event: DomainEventProtocol[UUID], tracking: Tracking) -> None:
        self.view.count(type(domain_event).__name__, tracking)
