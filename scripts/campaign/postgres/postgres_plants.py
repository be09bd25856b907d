"""Faults of a store in a database, which the trials have to find."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest import mock

from maestro_shm.postgres import store
from maestro_shm.postgres.commits import COMMIT, COMMIT_EVENTS
from maestro_shm.postgres.connections import Connections

Plant = Callable[[], AbstractContextManager[object]]


def _forgets_calls() -> AbstractContextManager[object]:
    """A call that is made again is taken for another one."""

    def carry_out(_calls: Any, _call: Any, commit_id: bytes, send: Callable[[bytes, bool], Any]) -> Any:
        return send(commit_id, False)  # noqa: FBT003 (as the store does)

    return mock.patch.object(store, "carry_out", carry_out)


def _sends_with_new_ids() -> AbstractContextManager[object]:
    """What is sent again has another id than before."""
    call = Connections.call

    def with_new_ids(self: Connections, statement: str, parameters: Callable[[bool], Any], outcome: str = "") -> Any:
        if statement not in (COMMIT, COMMIT_EVENTS):
            return call(self, statement, parameters, outcome)
        return call(self, statement, lambda is_again: (os.urandom(16), *parameters(is_again)[1:]), outcome)

    return mock.patch.object(Connections, "call", with_new_ids)


def _keeps_resends_to_itself() -> AbstractContextManager[object]:
    """The server is not told that a commit may have been sent before."""
    call = Connections.call

    def untold(self: Connections, statement: str, parameters: Callable[[bool], Any], outcome: str = "") -> Any:
        return call(self, statement, lambda _: parameters(False), outcome)  # noqa: FBT003 (see above)

    return mock.patch.object(Connections, "call", untold)


OF_RESENDING: Final[tuple[Plant, ...]] = (_sends_with_new_ids, _keeps_resends_to_itself)
"""By the store itself, within one call."""
OF_REPEATING: Final[tuple[Plant, ...]] = (_forgets_calls,)
"""By the caller, who makes a call again."""
