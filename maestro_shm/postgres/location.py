"""Where a database is: the URL that it was given by, and what may be shown of it."""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

SCHEMES: Final = ("postgresql://", "postgres://")
_HIDDEN: Final = "***"
_SECRETS: Final = ("password", "sslpassword")
_AUTHORITY: Final = re.compile(r"[^/?#]*")
_SOUND_PORTS: Final = re.compile(r"(\[[^\]]*\]|[^:,\[\]]*)(:[0-9]*)?(,(\[[^\]]*\]|[^:,\[\]]*)(:[0-9]*)?)*")
_PIECES: Final = re.compile(r"[@/?#&=,:]")
_SEARCH_PATH: Final = re.compile(r"(?:-c\s*|--)search_path=(\S+)")
_LONGEST_NAME: Final = 63
"""Bytes of an identifier; PostgreSQL cuts a longer one silently."""


def is_location(target: str) -> bool:
    """Whether a target is the URL of a PostgreSQL database."""
    return target.startswith(SCHEMES)


def shown_location(url: str) -> str:
    """The URL without its password, for errors and logs."""
    scheme, _, rest = url.partition("://")
    if not _is_sound(rest):
        return f"{scheme}://{_HIDDEN}"
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = [(key, _HIDDEN if key in _SECRETS else value) for key, value in parse_qsl(parts.query)]
    netloc = f"{name}{colon}{_HIDDEN if colon else ''}{at}{place}"
    return f"{scheme}://{netloc}{urlunsplit(('', '', parts.path, urlencode(query, safe='*,/:-'), ''))}"


def without_secrets(text: str, url: str) -> str:
    """A text about a URL, which may repeat parts of it, without its password."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def schema_of(url: str) -> str | None:
    """The schema that the URL's options name as the first of the search path; None where they name none."""
    _, pairs = _query_of(url)
    found = _SEARCH_PATH.search(_options(pairs))
    return found[1].partition(",")[0].strip('"') if found else None


def in_schema(url: str, schema: str) -> str:
    """The same database by another schema, whose name needs no escape in double quotes; a long one is cut by a hash.

    All else stays as it stands there: what libpq takes for a URL is more than is one.
    """
    if len(schema.encode()) > _LONGEST_NAME:
        schema = f"{schema.encode()[:30].decode(errors='ignore')}-{hashlib.sha256(schema.encode()).hexdigest()[:30]}"
    before, pairs = _query_of(url)
    others = _SEARCH_PATH.sub("", _options(pairs)).strip()
    options = quote(f'{others} -csearch_path="{schema}"'.strip(), safe="")
    return f"{before}?{'&'.join([*(pair for pair in pairs if not _is_options(pair)), f'options={options}'])}"


def _query_of(url: str) -> tuple[str, list[str]]:
    """What comes before the query, and its pairs; a password may have a `?`, which libpq does not mind."""
    start = url.index("://") + len("://")
    at, slash = url.find("@", start), url.find("/", start)
    mark = url.find("?", at if at >= 0 and (slash < 0 or at < slash) else start)
    return (url, []) if mark < 0 else (url[:mark], [pair for pair in url[mark + 1 :].split("&") if pair])


def _options(pairs: list[str]) -> str:
    return next((unquote(pair.partition("=")[2]) for pair in pairs if _is_options(pair)), "")


def _is_options(pair: str) -> bool:
    return unquote(pair.partition("=")[0]) == "options"


def _is_sound(rest: str) -> bool:
    """Whether a URL may be what it looks like: an unquoted password can cut it to pieces that look like others."""
    try:
        urlsplit(f"x://{rest}")
    except ValueError:
        return False
    authority = _authority(rest)
    path, _, query = rest[len(authority) :].partition("?")
    pairs = re.split("[&#]", query)
    return (
        _SOUND_PORTS.fullmatch(authority.rpartition("@")[2]) is not None
        and not set(path) & set("@#")
        and all("=" in pair.partition("@")[0] for pair in pairs if "@" in pair)
    )


def _secrets(url: str) -> set[str]:
    """What must not be shown, as it stands there and as it is meant; of an unquoted password each piece."""
    rest = url.partition("://")[2]
    user = (_authority(rest) if _is_sound(rest) else rest).rpartition("@")[0]
    password = user.partition(":")[2]
    found = {url, password, *_PIECES.split(password)}
    for pair in re.split("[&#]", rest.partition("?")[2]):
        key, _, value = pair.partition("=")
        if unquote(key) in _SECRETS:
            found.add(value)
    return {form for secret in found for form in (secret, unquote(secret)) if form}


def _authority(rest: str) -> str:
    found = _AUTHORITY.match(rest)
    return found[0] if found else ""
