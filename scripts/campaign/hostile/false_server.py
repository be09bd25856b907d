"""A false server: somebody listens in the place of a store's server, does not know its key, and says what he likes."""

from __future__ import annotations

import contextlib
import hmac
import pickle
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, NoReturn

from processes import Fork, is_gone, wait_until

import maestro_shm as ms
from campaign.check import Finding, Run, comes_to_light
from campaign.hostile.conversation import cuts, pieces
from campaign.hostile.mutations import Mutator
from campaign.hostile.served import Served
from campaign.hostile.traps import Traps
from campaign.planting import exchange
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import directory as directories
from maestro_shm.shared import election, handshake, transport, wire
from maestro_shm.shared.transport import Listener

_SLICE: Final = 10_000
_SLICE_SECONDS: Final = 300.0
_TIMEOUT: Final = 0.2
_BELIEVED: Final = 0.01
_SILENT: Final = 400
"""Of so many clients one hears nothing at all, one hears no end, and one is a whole `connect`."""
_HEARD_NOTHING: Final = 10
"""So many of those are kept, and have their deadlines behind them by far when they are let go."""


class FalseServer:
    """Listens at a store's socket and holds its directory, so that nobody starts a right one."""

    def __init__(self, path: Path, address: str, choices: Random, marker: Path) -> None:
        directories.hold(path)
        Path(address).unlink()
        self._listener = Listener(address)
        self._listener.socket.settimeout(None)
        self._choices = choices
        self._mutator = Mutator(choices, [handshake.greeting(), bytes(32), bytes(64)], marker)

    def serve(self) -> NoReturn:
        """Until it is killed."""
        silent = deque[socket.socket]()
        number = 0
        while True:
            connection, _ = self._listener.socket.accept()
            connection.settimeout(_TIMEOUT)
            number += 1
            if number % _SILENT == 0:
                silent.append(connection)
                if len(silent) > _HEARD_NOTHING:
                    silent.popleft().close()
                continue
            with connection, contextlib.suppress(OSError):
                self._talk(connection, endless=number % _SILENT == 1)

    def _talk(self, connection: socket.socket, *, endless: bool) -> None:
        if self._choices.random() < 0.3:
            self._say(connection, self._mutator.framed(self._mutator.by_bytes(handshake.greeting())))
        else:
            connection.sendall(wire.frame(handshake.greeting()))
            answered = connection.recv(200)[wire.LENGTH_BYTES :]
            self._say(connection, self._confirmation(answered))
            connection.settimeout(_BELIEVED)
            if connection.recv(200):  # somebody believes it, and asks for a mailbox
                connection.sendall(wire.pack([0, True, None]))
        while endless:
            connection.sendall(b"\0" * 5)

    def _confirmation(self, answered: bytes) -> bytes:
        """What might pass for a proof."""
        nonce, proof = answered[: handshake.NONCE_BYTES], answered[handshake.NONCE_BYTES :]
        likely = self._choices.choice((nonce, proof, answered, bytes(32), bytes(a ^ 255 for a in proof)))
        how = self._choices.random()
        if how < 0.2:
            return wire.frame(likely)
        return self._mutator.framed(self._mutator.by_bytes(likely))

    def _say(self, connection: socket.socket, stream: bytes) -> None:
        for piece in pieces(stream, cuts(self._choices, len(stream)) if self._choices.random() < 0.1 else None):
            connection.sendall(piece)


@dataclass
class Siege:
    """Clients of a false server. `plant` runs in the clients' processes before they begin."""

    run: Run
    name: str
    plant: Callable[[], object] = int
    patience: float = 20.0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    traps: Traps = field(default_factory=Traps)

    def go(self, calls: int) -> None:
        """Let clients come so often, and look at what became of them."""
        with tempfile.TemporaryDirectory() as scratch:
            path, marker = Path(scratch, "store"), Path(scratch, "marker")
            with Served(path) as served:
                address = served.address
            choices = self.run.random("false server", self.name)
            with Fork(lambda: FalseServer(path, address, choices, marker).serve()) as server:
                wait_until(lambda: directories.is_served(path), "the false server holds the directory")
                while self.outcomes.total() < calls and not self.faults:
                    self._send_clients(path, min(_SLICE, calls - self.outcomes.total()))
                if is_gone(server.pid):
                    server.result()
            if marker.exists() or self.traps.sprung:
                self.faults["unpickled"] += 1

    def _send_clients(self, path: Path, calls: int) -> None:
        with ExitStack() as stack:
            forks = [stack.enter_context(Fork(lambda: self._visit(path, calls // 2))) for _ in range(2)]
            wait_until(lambda: all(is_gone(fork.pid) for fork in forks), "the clients are done", seconds=_SLICE_SECONDS)
            for fork in forks:
                outcomes, faults = fork.result()
                self.outcomes += outcomes
                self.faults += faults

    def _visit(self, path: Path, calls: int) -> tuple[Counter[str], Counter[str]]:
        self.traps.set()
        self.plant()
        outcomes, faults = Counter[str](), Counter[str]()
        for number in range(calls):
            begun = time.monotonic()
            outcome = _connect(path) if number % _SILENT == _SILENT - 1 else _find(path, begun + _TIMEOUT)
            outcomes[outcome] += 1
            if outcome not in ("refused", "hung up"):
                faults[outcome] += 1
            if time.monotonic() > begun + _TIMEOUT + self.patience:
                faults["late"] += 1
            if faults:
                break
        return outcomes, faults


def _find(path: Path, deadline: float) -> str:
    try:
        line = election.find(path, deadline)
    except StoreUnavailableError:
        return "refused"
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        return type(error).__name__
    if line is None:
        return "hung up"
    line.close()
    return "deceived"


def _connect(path: Path) -> str:
    try:
        ms.connect(path, timeout=_TIMEOUT).close()
    except StoreUnavailableError:
        return "refused"
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        return type(error).__name__
    return "deceived"


def at_the_client(run: Run) -> Finding:
    real = Siege(run, "real")
    real.go(run.count(full=200_000, quick=2_000))
    print("  " + ", ".join(f"{count:,} clients {kind}" for kind, count in real.outcomes.most_common()))
    caught = [name for name in _PLANTED if comes_to_light(partial(_catches, run, name))]
    for name in set(_PLANTED) - set(caught):
        print(f"  not caught: {name}")
    wrong = sum(count for kind, count in real.faults.items() if kind not in ("deceived", "late", "unpickled"))
    return Finding(
        figure=f"{real.outcomes.total():,} calls to a false server that sends mutated frames",
        goal="refused in time; 0 other errors, 0 bytes unpickled",
        found=f"{real.faults['deceived']} deceived, {real.faults['late']} late, {wrong} other errors, "
        f"{real.traps.bytes_unpickled} bytes unpickled",
        met=not real.faults and not real.traps.bytes_unpickled,
        planted=f"{len(caught)} of {len(_PLANTED)}",
        caught_all=len(caught) == len(_PLANTED),
    )


def _catches(run: Run, name: str, attempt: int) -> bool:
    plant, kind = _PLANTED[name]
    planted = Siege(run, f"{name} {attempt}", plant, patience=1)
    planted.go(20 * _SILENT)  # it ends with the first fault
    return planted.faults[kind] > 0


# Clients with a fault


def _unpickle() -> None:
    is_greeting = handshake.is_greeting

    def harmful(message: bytes) -> bool:
        with contextlib.suppress(Exception):
            pickle.loads(message)
        return is_greeting(message)

    exchange(handshake, "is_greeting", harmful)


def _trip() -> None:
    is_greeting, last = handshake.is_greeting, len(handshake.greeting()) - 1
    exchange(handshake, "is_greeting", lambda message: (message[last], is_greeting(message))[1])


def _believe() -> None:
    exchange(hmac, "compare_digest", lambda *_: True)


def _wait_too_long() -> None:
    wait = transport._wait
    exchange(transport, "_wait", lambda for_what, deadline: wait(for_what, deadline + 2))


_PLANTED: Final[dict[str, tuple[Callable[[], Any], str]]] = {
    "unpickles": (_unpickle, "unpickled"),
    "trips over a short greeting": (_trip, "IndexError"),
    "believes every proof": (_believe, "deceived"),
    "waits too long": (_wait_too_long, "late"),
}
