"""Where a database is: the URL that it was given by, and what may be shown of it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SCHEMES: Final = ("postgresql://", "postgres://")
_HIDDEN: Final = "***"


def is_location(target: str) -> bool:
    """Whether a target is the URL of a PostgreSQL database."""
    return target.startswith(SCHEMES)


def shown_location(url: str) -> str:
    """The URL without its password, for errors and logs."""
    try:
        parts = urlsplit(url)
        user, at, place = parts.netloc.rpartition("@")
        name, colon, _ = user.partition(":")
        query = [(key, _HIDDEN if key == "password" else value) for key, value in parse_qsl(parts.query)]
    except ValueError:
        return f"{url.partition('://')[0]}://{_HIDDEN}"
    netloc = f"{name}{colon}{_HIDDEN if colon else ''}{at}{place}"
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query, safe="*=,/:-"), ""))
