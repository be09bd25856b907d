"""A hostile client: with the key and without, it sends wrong messages, and looks what becomes of each."""

from __future__ import annotations

from random import Random
from typing import Final

from campaign.hostile.conversation import (
    Conversation,
    Ended,
    Record,
    commits_in,
    cuts,
    forgets_everything,
    judge,
    known,
    messages_in,
)
from campaign.hostile.letters import Letters
from campaign.hostile.mutations import Mutator
from maestro_shm.shared import handshake, wire

LIMIT: Final = (1 << 20) + wire.OVERHEAD
_STRANGERS: Final = 0.3
"""How often to come without the key; otherwise with several messages at once, or by mail."""
_BY_MAIL: Final = 0.5
_SLOW: Final = 0.004
_IN_PIECES: Final = 0.05
_PAUSE: Final = 0.002
_MOST_AT_ONCE: Final = 8


class Attacker:
    """Attacks one server until enough of its messages have been looked at."""

    def __init__(
        self, address: str, key: bytes, choices: Random, mutator: Mutator, patience: float, most_faults: int
    ) -> None:
        self._address = address
        self._key = key
        self._choices = choices
        self._mutator = mutator
        self._patience = patience
        self._most_faults = most_faults
        self._talk: Conversation | None = None
        self.record = Record()
        self._letters = Letters(address, key, choices, mutator, patience, self.record)

    def attack(self, messages: int) -> Record:
        """Send messages until so many have been answered, or have ended a connection."""
        try:
            while self.record.outcomes.total() < messages and self.record.faults.total() < self._most_faults:
                if self._choices.random() < _STRANGERS:
                    self._come_as_a_stranger()
                elif self._choices.random() < _BY_MAIL:
                    self._letters.send()
                else:
                    self._come_with_the_key()
        except (ConnectionError, FileNotFoundError, Ended):
            self.record.fault("unreachable", b"")
        except TimeoutError:
            self.record.fault("silent", b"")
        finally:
            self._hang_up()
            self._letters.close()
        return self.record

    def _come_as_a_stranger(self) -> None:
        talk = Conversation(self._address, self._patience)
        try:
            right = handshake.answer(self._key, talk.greeted)
            stream = self._mutator.framed(self._mutator.by_bytes(right))
            messages, _ = messages_in(stream, handshake.MAX_MESSAGE_BYTES)
            if messages[:1] == [right]:
                return  # nothing about it was wrong
            self._say(talk, stream)
            talk.end()
            said = talk.hear()
            self.record.fault("open", stream)
            self.record.fault("talkative", said)
        except Ended:
            self.record.outcomes["stranger dropped"] += 1
        except TimeoutError:
            self.record.fault("silent", stream)
        finally:
            talk.close()

    def _come_with_the_key(self) -> None:
        stream = b"".join(self._message() for _ in range(self._choices.randint(1, _MOST_AT_ONCE)))
        messages, ending = messages_in(stream, LIMIT)
        messages = [message for message in messages if message]  # an empty one is a ring, and has no answer
        if any(map(forgets_everything, messages)):
            return
        if self._talk is None:
            self._talk = known(self._address, self._key, self._patience)
        answered = 0
        try:
            self._say(self._talk, stream)
            if ending == "partial":
                self._talk.end()
            for message in messages:
                judge(self.record, message, self._talk.hear())
                answered += 1
            if ending != "whole":
                self._talk.hear()
                self.record.fault("mistaken", stream)
        except Ended:
            self._hang_up()
            kind = "client dropped" if answered < len(messages) or ending == "over" else "ended half-way"
            self.record.outcomes[kind] += 1
            self.record.stored += sum(map(commits_in, messages[answered:]))  # their replies were lost with the line
        except TimeoutError:
            self._hang_up()
            self.record.fault("silent", messages[answered] if answered < len(messages) else stream)

    def _message(self) -> bytes:
        how = self._choices.random()
        if how < 0.96:
            return wire.frame(self._mutator.by_structure())
        return self._mutator.framed(self._mutator.by_bytes() if how < 0.98 else self._mutator.by_structure())

    def _say(self, talk: Conversation, stream: bytes) -> None:
        how = self._choices.random()
        chunks = cuts(self._choices, len(stream)) if how < _IN_PIECES else None
        talk.say(stream, chunks, _PAUSE if how < _SLOW else 0)

    def _hang_up(self) -> None:
        if self._talk is not None:
            self._talk.close()
            self._talk = None
