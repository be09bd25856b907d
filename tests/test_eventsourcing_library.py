"""The public test cases of the `eventsourcing` library, as they are installed with it, on our recorders.

Each test has a store of its own: a named one in shared memory, one in memory, or a schema.
"""

from __future__ import annotations

import contextlib
from unittest import TestCase
from uuid import uuid4

from eventsourcing.tests import persistence
from eventsourcing.utils import Environment
from postgres_server import schema_url
from processes import named_target

from maestro_shm.eventsourcing import (
    Factory,
    MaestroAggregateRecorder,
    MaestroApplicationRecorder,
    MaestroProcessRecorder,
    MaestroSnapshotRecorder,
    MaestroTrackingRecorder,
)


class Shared(TestCase):
    """A new store in shared memory for each test."""

    def setUp(self) -> None:
        self.factory = Factory({"MAESTRO_TARGET": self.enterContext(self.target())})
        self.addCleanup(self.factory.close)
        super().setUp()

    def target(self) -> contextlib.AbstractContextManager[str]:
        return named_target()


class InMemory(Shared):
    def target(self) -> contextlib.AbstractContextManager[str]:
        return contextlib.nullcontext("memory:")


class InDatabase(Shared):
    def target(self) -> contextlib.AbstractContextManager[str]:
        return schema_url()


class TextIds(TestCase):
    def new_originator_id(self) -> str:
        return f"account-{uuid4()}"


class UUIDTextIds(TestCase):
    def new_originator_id(self) -> str:
        return str(uuid4())


class TestAggregateRecorder(Shared, persistence.AggregateRecorderTestCase):
    def create_recorder(self) -> MaestroAggregateRecorder:
        recorder = self.factory.aggregate_recorder()
        assert isinstance(recorder, MaestroAggregateRecorder)
        return recorder


class TestAggregateRecorderInMemory(InMemory, TestAggregateRecorder):
    pass


class TestAggregateRecorderInDatabase(InDatabase, TestAggregateRecorder):
    pass


class TestAggregateRecorderWithTextIds(TextIds, TestAggregateRecorder):
    pass


class TestSnapshotRecorder(Shared, persistence.AggregateRecorderTestCase):
    def create_recorder(self) -> MaestroSnapshotRecorder:
        recorder = self.factory.aggregate_recorder("snapshots")
        assert isinstance(recorder, MaestroSnapshotRecorder)
        return recorder


class TestSnapshotRecorderInDatabase(InDatabase, TestSnapshotRecorder):
    pass


class TestSnapshotRecorderInMemory(InMemory, TestSnapshotRecorder):
    pass


class TestApplicationRecorder(Shared, persistence.ApplicationRecorderTestCase[MaestroApplicationRecorder]):
    def create_recorder(self) -> MaestroApplicationRecorder:
        return self.factory.application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderInDatabase(InDatabase, TestApplicationRecorder):
    pass


class TestApplicationRecorderInMemory(InMemory, TestApplicationRecorder):
    pass


class TestApplicationRecorderWithTextIds(UUIDTextIds, TestApplicationRecorder):
    pass


class TestTrackingRecorder(Shared, persistence.TrackingRecorderTestCase):
    def create_recorder(self) -> MaestroTrackingRecorder:
        return self.factory.tracking_recorder()


class TestTrackingRecorderInDatabase(InDatabase, TestTrackingRecorder):
    pass


class TestTrackingRecorderInMemory(InMemory, TestTrackingRecorder):
    pass


class TestProcessRecorder(Shared, persistence.ProcessRecorderTestCase):
    def create_recorder(self) -> MaestroProcessRecorder:
        return self.factory.process_recorder()


class TestProcessRecorderInDatabase(InDatabase, TestProcessRecorder):
    pass


class TestProcessRecorderInMemory(InMemory, TestProcessRecorder):
    pass


class TestProcessRecorderAsApplicationRecorder(TestApplicationRecorder):
    def create_recorder(self) -> MaestroProcessRecorder:
        return self.factory.process_recorder()


class TestProcessRecorderAsTrackingRecorder(TestTrackingRecorder):
    def create_recorder(self) -> MaestroProcessRecorder:
        return self.factory.process_recorder()


class TestNonInterleavingNotificationIds(Shared, persistence.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> MaestroApplicationRecorder:
        return self.factory.application_recorder()


class TestNonInterleavingNotificationIdsInDatabase(InDatabase, TestNonInterleavingNotificationIds):
    pass


class OurTrackingRecorder(MaestroTrackingRecorder):
    pass


class TestFactory(persistence.InfrastructureFactoryTestCase[Factory]):
    def setUp(self) -> None:
        target = self.enterContext(named_target())
        self.env = Environment(env={"PERSISTENCE_MODULE": "maestro_shm.eventsourcing", "MAESTRO_TARGET": target})
        super().setUp()

    def expected_factory_class(self) -> type[Factory]:
        return Factory

    def expected_aggregate_recorder_class(self) -> type[MaestroAggregateRecorder]:
        return MaestroAggregateRecorder

    def expected_application_recorder_class(self) -> type[MaestroApplicationRecorder]:
        return MaestroApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[MaestroTrackingRecorder]:
        return MaestroTrackingRecorder

    def tracking_recorder_subclass(self) -> type[MaestroTrackingRecorder]:
        return OurTrackingRecorder

    def expected_process_recorder_class(self) -> type[MaestroProcessRecorder]:
        return MaestroProcessRecorder
