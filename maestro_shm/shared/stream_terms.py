"""What a turn of a stream may be: client and server both go by it."""

from __future__ import annotations

from typing import Final

MOST_COMMITS: Final = 256
LONGEST_LEASE: Final = 1.0
"""Seconds; a client that stops in its turn holds the others up for so long at most."""
CLIENT_BYTES: Final = 8
"""Of a commit's id, by which its client is known."""
