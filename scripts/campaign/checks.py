"""The checks by name, in the order in which they are run."""

from __future__ import annotations

from typing import Final

from campaign import calls, damage, elections, fullness, histories, replies, restarts
from campaign.check import Check
from campaign.frames import frames
from campaign.intruders import intruders
from campaign.silence import silence

ALL: Final[dict[str, Check]] = {
    "replies": replies.check,
    "calls": calls.check,
    "histories": histories.check,
    "damage": damage.check,
    "fullness": fullness.check,
    "elections": elections.check,
    "restart": restarts.check,
    "frames": frames,
    "intruders": intruders,
    "silence": silence,
}
