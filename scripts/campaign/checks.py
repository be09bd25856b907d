"""The checks by name, in the order in which they are run."""

from __future__ import annotations

from typing import Final

from campaign import tests
from campaign.check import Check
from campaign.compactions import compactions
from campaign.elections import elections, restarts
from campaign.exactly_once import calls, replies
from campaign.files import damage, fullness
from campaign.histories import histories
from campaign.hostile import frames, intruders, silence
from campaign.kills import cycles, kills, workers
from campaign.postgres import postgres
from campaign.power import losses
from campaign.views import views

ALL: Final[dict[str, Check]] = {
    "kills": kills.check,
    "compactions": compactions.check,
    "replies": replies.check,
    "calls": calls.check,
    "histories": histories.check,
    "power": losses.check,
    "damage": damage.check,
    "fullness": fullness.check,
    "elections": elections.check,
    "restart": restarts.check,
    "frames": frames.frames,
    "intruders": intruders.intruders,
    "silence": silence.silence,
    "workers": workers.check,
    "cycles": cycles.check,
    "views": views.check,
    "postgres": postgres.check,
    "tests": tests.check,
}
