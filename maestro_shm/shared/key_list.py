"""The keys of a table, put together from the records that tell which came and went."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from maestro_shm import codec
from maestro_shm.cut import NEVER, Keys
from maestro_shm.shared.log import Facts

NO_KEYS: Final = Keys(NEVER, ())
_ONE_BY_ONE: Final = 16
"""Up to so many changes go into a copy of the list each by itself; for more it is sorted anew."""


def known_after(known: Keys, records: Sequence[Facts]) -> Keys:
    """The keys when these records, the newest first, have followed on what was known."""
    changes = [codec.unpack(payload) for _, _, _, _, payload in reversed(records)]
    version = records[0][0]
    if sum(len(came) + len(went) for came, went in changes) > _ONE_BY_ONE:
        return Keys(version, _sorted_anew(known.keys, changes))
    keys = list(known.keys)
    for came, went in changes:
        for key in went:
            del keys[bisect_left(keys, key)]
        for key in came:
            keys.insert(bisect_left(keys, key), key)
    return Keys(version, keys)


def _sorted_anew(known: Sequence[str], changes: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    keys = set(known)
    for came, went in changes:
        keys.difference_update(went)
        keys.update(came)
    return sorted(keys)
