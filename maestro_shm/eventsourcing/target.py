"""Where the store of an application is."""

from __future__ import annotations

import re
from typing import Final

from maestro_shm.postgres.location import in_schema, is_location, schema_of

_SCHEMA: Final = "maestro"
"""Of a database whose URL names none."""
_MEMORY: Final = "memory:"
_ESCAPED: Final = re.compile(r"[^A-Za-z0-9_]")


def target_of(target: str, application: str) -> str:
    """The target of an application's own store, for `maestro_shm.connect` and `destroy`.

    It is `shm:orders.Shop`, or `/data/orders.Shop`, for the application `Shop` and `MAESTRO_TARGET` `shm:orders` or
    `/data/orders`. Other characters of the name than letters, digits and `_` are escaped, so no two applications have
    the same store. Without a name, and in memory, it is the target itself. In a database it is a schema of its own,
    `orders.Shop` where the URL names the schema `orders`, and `maestro.Shop` where it names none.
    """
    if not application or target == _MEMORY:
        return target
    name = _ESCAPED.sub(_escape, application)
    if is_location(target):
        return in_schema(target, f"{schema_of(target) or _SCHEMA}.{name}")
    return f"{target.rstrip('/') or target}.{name}"


def _escape(character: re.Match[str]) -> str:
    return "".join(f"-{byte:02x}" for byte in character[0].encode(errors="surrogatepass"))
