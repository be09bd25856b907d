"""A store copied into another one, of whatever kinds they are: what is checked before, and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from maestro_shm import copy_mark
from maestro_shm.backend import Backend
from maestro_shm.cut import Cut
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.transfer import Tell, Transfer
from maestro_shm.verification import Totals, Verification, is_empty

_LEASE: Final = 0


def copy(source: Backend, target: Backend, tell: Tell) -> Totals:
    """Bring the target to the newest state of the source, and compare both; what is compared comes back.

    The target must be empty, or a copy of this source. Whoever was interrupted makes the same call again, and it goes
    on. Raises `StoreUnavailableError` for any other target, and where events of either were truncated, before anything
    is changed; for a target that is written to meanwhile or cannot hold what the source does, and for a difference in
    the end.
    """
    with _alone(target):
        cut = source._cut()
        _check_whole(source.target, cut)
        tell(f"copying up to position {cut.last_position:,}", 0, None)
        _check_target(cut, source.target, target, "nothing was changed")
        # A commit of somebody who was killed may still be on its way. Most likely it is over when this one is; where it
        # is not, positions and versions tell that somebody else writes.
        copy_mark.put(target, source.target, cut.last_position, is_complete=False)
        _check_target(cut, source.target, target, "nothing was changed but the mark of a copy")
        Transfer(cut, target, tell).run()
        verification = Verification(cut, target._cut(), tell)
        if difference := verification.first_difference():
            raise StoreUnavailableError(target.target, f"it differs from {source.target}: {difference}")
        copy_mark.put(target, source.target, cut.last_position, is_complete=True)
        return verification.totals


def _check_target(source: Cut, name: str, target: Backend, so_far: str) -> None:
    found = target._cut()
    _check_whole(target.target, found)
    if difference := Verification(source, found, _be_quiet).first_in_prefix():
        raise StoreUnavailableError(target.target, f"it is no copy of {name}: {difference}; {so_far}")
    marked = copy_mark.source_of(found)
    if marked is None and not is_empty(found):
        raise StoreUnavailableError(target.target, f"it is neither empty nor a copy of {name}; {so_far}")
    if marked not in (None, name) and not found.last_position:  # no event proves that the two names mean one store
        raise StoreUnavailableError(target.target, f"it is a copy of {marked}, not of {name}; {so_far}")


def _check_whole(name: str, cut: Cut) -> None:
    """A copy has each event at its own position, and nothing commits past some of them."""
    if cut.is_truncated:
        reason = "events of it were truncated, so that its positions have gaps, which a copy cannot have"
        raise StoreUnavailableError(name, reason)


@contextmanager
def _alone(target: Backend) -> Iterator[None]:
    """Let nobody else copy into the target meanwhile."""
    leases = target._leases(copy_mark.TABLE)
    try:
        if not leases.take(_LEASE):
            raise StoreUnavailableError(target.target, "somebody else is copying into it")
        yield
    finally:
        leases.close()


def _be_quiet(what: str, done: int, of: int | None) -> None: ...
