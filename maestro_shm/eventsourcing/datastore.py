"""The store of one application, as its recorders share it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from eventsourcing.persistence import ProgrammingError

from maestro_shm.backend import Backend
from maestro_shm.connect import connect
from maestro_shm.eventsourcing.settings import Settings
from maestro_shm.eventsourcing.translation import translating
from maestro_shm.eventsourcing.turns import Turns
from maestro_shm.postgres.driver import make_tables
from maestro_shm.postgres.location import is_location
from maestro_shm.transaction import Transaction

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


class Datastore:
    """It connects when it is first used, since the library makes factories that never are, and closes with its end.

    Threads and forks may share it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self.turns: Final = Turns()
        """To be taken for each call that the store's server has to answer."""
        self._store: Backend | None = None
        self._lock = threading.RLock()  # a signal's handler may close it while it connects
        self._process = os.getpid()
        self._is_closed = False
        self._close: Callable[[], object] | None = None

    @property
    def store(self) -> Backend:
        """The connected store.

        Raises `OSError` for options that the target does not have or that may not be what they are, `OperationalError`
        for a store that cannot be reached, and `ProgrammingError` after `close`.
        """
        return self._store or self._connected()

    def transact(
        self,
        function: Callable[Concatenate[Transaction, _Params], _Result],
        *arguments: _Params.args,
        **named: _Params.kwargs,
    ) -> _Result:
        """See `maestro_shm.Store.transact`."""
        store = self.store
        with self.turns.next():
            return store.transact(function, *arguments, **named)

    def close(self) -> None:
        """Let go of the store; closing twice is no error."""
        with self._lock:
            self._is_closed = True
            if self._close is not None:
                self._close()

    @translating
    def _connected(self) -> Backend:
        if self._process != os.getpid():  # a thread that is not here may have had the lock at the fork
            self._process, self._lock = os.getpid(), threading.RLock()
        with self._lock:
            if self._is_closed:
                raise ProgrammingError(
                    f"the store {self.settings.target!r} is closed; make a new application or factory"
                )
            if self._store is None:
                store = cast("Backend", self._connect())
                # A projection's runner, for one, makes a factory that nobody closes.
                self._close = weakref.finalize(self, store.close)
                self._store = store
            return self._store

    def _connect(self) -> Any:
        target = self.settings.target
        try:
            if self.settings.creates_tables and is_location(target):
                make_tables(target)
            return connect(target, **self.settings.options)
        except (TypeError, ValueError) as error:
            raise OSError(f"the settings of the store {self.settings.target!r} in the environment: {error}") from None
