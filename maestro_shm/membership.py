"""Who has which partitions of a subscription: each consumer finds out for itself, from the leases.

Every consumer leases a seat, the lowest that is free. The seats that are taken tell how many consumers there are, and
how many sit before this one: so each knows how many partitions are its, the same for all within one. Nobody takes more
than that, and who has more gives back; so nobody has to be asked, and nobody's death has to be told.
"""

from __future__ import annotations

from typing import Final

from maestro_shm.leases import Leases

MOST_PARTITIONS: Final = 1024
_FIRST_SEAT: Final = 1 << 20
_MOST_SEATS: Final = 1 << 16
REPLAY: Final = 1 << 21
"""What is leased by who replays what was parked."""


class Membership:
    """Of one consumer."""

    def __init__(self, leases: Leases, partitions: int) -> None:
        self.held: Final[set[int]] = set()
        self._leases = leases
        self._partitions = partitions
        self._seat = next(seat for seat in range(_FIRST_SEAT, _FIRST_SEAT + _MOST_SEATS) if leases.take(seat))

    def excess(self) -> list[int]:
        """The partitions that are to be given back."""
        return sorted(self.held)[self._share() :]

    def give_back(self, partition: int) -> None:
        """Let another consumer have it."""
        self.held.discard(partition)
        self._leases.give_back(partition)

    def take(self) -> list[int]:
        """Those that are free, as many as are missing; they are leased now."""
        missing = self._share() - len(self.held)
        if missing <= 0:
            return []
        taken = {*self.held, *self._leases.taken_by_others(0, self._partitions)}
        found: list[int] = []
        for partition in range(self._partitions):
            if len(found) < missing and partition not in taken:
                self.held.add(partition)  # before it is so, lest an interruption leave a lease that nobody knows of
                if self._leases.take(partition):
                    found.append(partition)
                else:
                    self.held.discard(partition)
        return found

    def close(self) -> None:
        """Leave, with all that is leased."""
        self.held.clear()
        self._leases.close()

    def _share(self) -> int:
        """How many partitions are ours."""
        others = self._leases.taken_by_others(_FIRST_SEAT, _FIRST_SEAT + _MOST_SEATS)
        least, remainder = divmod(self._partitions, len(others) + 1)
        return least + (sum(seat < self._seat for seat in others) < remainder)
