"""Originator ids, which are UUIDs or strs, as aggregate ids, which are strs; and back, the type included.

A UUID is written in its usual form. A str stays as it is, unless it could be taken for one: then it is escaped.
"""

from __future__ import annotations

import functools
import re
from typing import Final
from uuid import UUID

from eventsourcing.persistence import DataError

from maestro_shm.errors import shown

_ESCAPE: Final = "="
_UUID_FORM: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def aggregate_id_of(originator_id: UUID | str) -> str:
    """The aggregate id. Raises `DataError` for what is neither a UUID nor a str."""
    if isinstance(originator_id, UUID):
        return str(originator_id)
    if type(originator_id) is not str:
        raise DataError(f"an originator id must be a UUID or a str, not {shown(originator_id)}")
    if originator_id.startswith(_ESCAPE) or _UUID_FORM.fullmatch(originator_id):
        return _ESCAPE + originator_id
    return originator_id


@functools.lru_cache(1024)
def originator_id_of(aggregate_id: str) -> UUID | str:
    """The originator id. To make a UUID takes a microsecond, and events that are read at once have often the same."""
    if aggregate_id.startswith(_ESCAPE):
        return aggregate_id.removeprefix(_ESCAPE)
    return UUID(aggregate_id) if _UUID_FORM.fullmatch(aggregate_id) else aggregate_id
