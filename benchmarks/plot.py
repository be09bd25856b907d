"""The times as bars on a log axis: a panel for each figure, the fastest on top, ours in colour, a tick at the p99."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Results
from benchmarks.rivals.maestro import Maestro
from benchmarks.timing import Timing

_OURS: Final = "#c2410c"
_OTHERS: Final = "#9aa5b1"
_TEXT: Final = "#1f2933"


def save(path: Path, machine: dict[str, Any], results: Results) -> None:
    mpl.use("Agg")
    panels = [list(timings) for _, timings in groupby(results.timings, attrgetter("figure"))]
    panels.append(results.first_reads)
    figure = Figure(figsize=(10, 2 + 0.34 * sum(map(len, panels))), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=[len(panel) + 1 for panel in panels])
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, sorted(panel, key=attrgetter("median_us"), reverse=True))
    axes[-1].set_xlabel("µs, log scale: median as a bar, p99 as a tick; shorter is better")
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores, {machine['python']}", color=_TEXT, fontsize=11)
    figure.savefig(path, dpi=130)


def _draw(axis: Axes, timings: Sequence[Timing]) -> None:
    names = [timing.rival for timing in timings]
    medians = [timing.median_us for timing in timings]
    ours = [name.startswith(Maestro.name) for name in names]
    bars = axis.barh(names, medians, color=[_OURS if mine else _OTHERS for mine in ours], height=0.72)
    axis.plot([timing.p99_us for timing in timings], names, linestyle="", marker="|", markersize=9, color=_TEXT)
    axis.bar_label(bars, [f" {value:,.2f}" for value in medians], label_type="center", fontsize=8, color="black")
    axis.set_title(timings[0].figure, loc="left", fontsize=10, color=_TEXT)
    axis.set_xscale("log")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#e4e7eb")
    axis.set_axisbelow(True)
    axis.tick_params(axis="both", labelsize=9, colors=_TEXT)
    for label, mine in zip(axis.get_yticklabels(), ours, strict=True):
        label.set_fontweight("bold" if mine else "normal")
