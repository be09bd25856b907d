"""Wrong messages by mail, from one who has mailboxes, writes into them as he likes, and into those of nobody."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any, Final

from campaign.hostile.conversation import Ended, Record, commits_in, forgets_everything, judge, known
from campaign.hostile.mutations import Mutator
from maestro_shm.shared import mailboxes, wire
from maestro_shm.shared.mailboxes import BY_SOCKET, LARGEST_MESSAGE, MOST, Mailbox

_BOXES: Final = 2
_LOOK: Final = 0.0005
"""Seconds between two looks for a reply."""
_CHANGES: Final = 20
_SIZES: Final = (0, 1, LARGEST_MESSAGE, LARGEST_MESSAGE + 1, 1 << 20, 2**32, 2**63, 2**64 - 1)
_WORD: Final = 8


class _Box:
    """A connection with its mailbox."""

    def __init__(self, address: str, key: bytes, patience: float) -> None:
        self.talk: Final = known(address, key, patience)
        try:
            self.talk.say(wire.pack([0, None, "mailbox", []]))
            self.mailbox: Final = Mailbox(Path(address).parent, wire.unpack(self.talk.hear())[2])
        except BaseException:
            self.talk.close()
            raise

    def close(self) -> None:
        self.mailbox.close()
        self.talk.close()

    def set(self, word: int, number: int) -> None:
        """Write a word of the mailbox."""
        self.mailbox._words[self.mailbox._word + word] = number

    def written(self) -> bytes:
        """The request as it lies there for whoever believes what is there."""
        mailbox = self.mailbox
        start = mailbox._start + mailboxes._REQUEST_AT
        size = mailbox._words[mailbox._word + mailboxes._REQUEST_SIZE] & mailboxes._SIZE_MASK
        content: bytes = mailbox._data[start : start + size]
        return content

    def overwrite(self, content: bytes) -> None:
        """Write over the request without a word."""
        start = self.mailbox._start + mailboxes._REQUEST_AT
        self.mailbox._data[start : start + len(content)] = content

    def reply(self, patience: float) -> bytes:
        """What comes. Raises `Ended`, and `TimeoutError` if neither does."""
        deadline = time.monotonic() + patience
        while (reply := self.mailbox.reply()) is None:
            self.talk.rings(_LOOK)
            if time.monotonic() > deadline:
                raise TimeoutError
        while reply == BY_SOCKET or not reply:  # an empty one is a ring
            reply = self.talk.hear()
        return reply


class Letters:
    """Sends one letter after the other, each in one of the wrong ways."""

    def __init__(
        self, address: str, key: bytes, choices: Random, mutator: Mutator, patience: float, record: Record
    ) -> None:
        self._address = address
        self._key = key
        self._choices = choices
        self._mutator = mutator
        self._patience = patience
        self._record = record
        self._boxes: list[_Box] = []
        self._all_are_given = False

    def send(self) -> None:
        """Send a letter, and look what becomes of it."""
        payload = self._mutator.by_structure() if self._choices.random() < 0.9 else self._mutator.by_bytes()
        payload = payload[:LARGEST_MESSAGE]
        if forgets_everything(payload):
            return
        while len(self._boxes) < _BOXES and not self._all_are_given:
            try:
                self._boxes.append(_Box(self._address, self._key, self._patience))
            except TypeError:  # no address: nobody gets those of whoever was dropped
                self._all_are_given = True
        if not self._boxes:
            return
        box = self._choices.choice(self._boxes)
        self._tell_lies(box)
        changes = self._post(box, payload)
        try:
            # Whoever has the mailbox is meant, whichever of the connections it is that rings.
            self._choices.choice(self._boxes).talk.say(wire.RING)
            for content in changes:
                box.overwrite(content)
            reply = box.reply(self._patience)
        except Ended:
            self._record.outcomes["dropped by mail"] += 1
            self._record.stored += commits_in(payload)  # its reply may be what was lost
            self.close()
        except TimeoutError:
            self._record.fault("silent", payload)
            self.close()
        else:
            if changes:
                self._record.outcomes["changed while it was read"] += 1
                self._record.stored += commits_in(payload) + len(changes)
            else:
                judge(self._record, box.written(), reply)

    def close(self) -> None:
        """Leave."""
        while self._boxes:
            self._boxes.pop().close()

    def _post(self, box: _Box, payload: bytes) -> list[bytes]:
        """Post it, and return what is to be written over it then."""
        how = self._choices.random()
        if how < 0.1:
            box.mailbox._request = self._choices.getrandbits(64) % (2**64 - 1)
        if how > 0.9:
            self._post_with_size(box, payload)
            return []
        box.mailbox.post(payload)
        return [self._mutator.by_bytes(payload)[: len(payload)] for _ in range(_CHANGES)] if how > 0.85 else []

    def _post_with_size(self, box: _Box, payload: bytes) -> None:
        """The size is anything; what lies behind the message is what was there before."""
        box.overwrite(payload)
        box.set(mailboxes._REQUEST_SIZE, self._choices.choice((*_SIZES, len(payload) - 1, len(payload) + 1)) % 2**64)
        if forgets_everything(box.written()):
            box.set(mailboxes._REQUEST_SIZE, 0)
        box.mailbox._request += 1
        box.mailbox._words[box.mailbox._number_word] = box.mailbox._request

    def _tell_lies(self, box: _Box) -> None:
        """Write where it does not belong: who sleeps, what was answered, and letters to mailboxes that nobody has."""
        words: Any = box.mailbox._words
        lie = self._choices.randrange(8)
        if lie == 0:
            words[mailboxes._SERVER_SLEEPS] = self._choices.choice((0, 1, 2**64 - 1))
        elif lie == 1:
            box.set(mailboxes._CLIENT_SLEEPS, self._choices.choice((0, 1, 2**64 - 1)))
        elif lie == 2:
            box.set(mailboxes._REPLY_SIZE, self._choices.choice(_SIZES))
        elif lie == 3:
            nobodys = self._choices.randrange(MOST // 2, MOST)
            words[mailboxes._start(nobodys) // _WORD + mailboxes._REQUEST_SIZE] = self._choices.choice(_SIZES)
            words[mailboxes._NEWEST_REQUESTS + nobodys] = self._choices.getrandbits(64)
