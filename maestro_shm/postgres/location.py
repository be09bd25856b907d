"""Where a database is: the URL that it was given by, and what may be shown of it."""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

SCHEMES: Final = ("postgresql://", "postgres://")
_HIDDEN: Final = "***"
_SEARCH_PATH: Final = re.compile(r"-c\s*search_path=(\S+)")
_LONGEST_NAME: Final = 63
"""Bytes of an identifier; PostgreSQL cuts a longer one silently."""


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


def schema_of(url: str) -> str | None:
    """The schema that the URL's options name as the first of the search path; None where they name none."""
    found = _SEARCH_PATH.search(dict(parse_qsl(urlsplit(url).query)).get("options", ""))
    return found[1].partition(",")[0].strip('"') if found else None


def in_schema(url: str, schema: str) -> str:
    """The same database by another schema, whose name needs no escape in double quotes; a long one is cut by a hash."""
    if len(schema.encode()) > _LONGEST_NAME:
        schema = f"{schema[:30]}-{hashlib.sha256(schema.encode()).hexdigest()[:30]}"
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    others = _SEARCH_PATH.sub("", query.pop("options", "")).strip()
    query["options"] = f'{others} -csearch_path="{schema}"'.strip()
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))
