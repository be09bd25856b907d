"""The checks by name, in the order in which they are run."""

from __future__ import annotations

from typing import Final

from campaign import calls, replies
from campaign import histories
from campaign import elections, histories
from campaign import elections, histories, restarts
from campaign import damage
from campaign import damage, fullness
from campaign.check import Check
from campaign.frames import frames
from campaign.intruders import intruders
from campaign.silence import silence

ALL: Final[dict[str, Check]] = {
    "replies": replies.check,
    "calls": calls.check,
    "frames": frames,
    "intruders": intruders,
    "silence": silence,
    "histories": histories.check,
    "elections": elections.check,
    "restart": restarts.check,
    "damage": damage.check,
    "fullness": fullness.check,
}
