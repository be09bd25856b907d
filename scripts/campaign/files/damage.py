"""Damage to the log: every truncation, and every flip of a single bit, of a log of 64 KiB.

Each is recovered by the real code as after another boot, with nothing known to be on the disk and with all of it, and
is read by the real code within the same boot. What comes out is compared with books that were kept as the log was
written.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from campaign.check import Finding, Run
from campaign.files import damage_plants, specimen
from campaign.files.children import on_all_cores
from campaign.files.copies import (
    LIVE_FRAME,
    MEMORY,
    Copy,
    Damage,
    copied,
    end_of_file_at,
    flipped_bit,
    kind_of,
    zeros_from,
)
from campaign.files.damage_plants import Plant
from campaign.files.damage_reading import SEEN, Stricken, check_journal, check_reads
from campaign.files.damage_recovery import UndetectedError, check_recovery, check_scan
from campaign.files.specimen import END, KEYS, Specimen
from campaign.files.tally import UNDETECTED, WRONG, Tally, total
from maestro_shm.shared.log import Log

_GOAL: Final = "0 wrong, 0 undetected"
_SECONDS: Final = 3_600.0
_AGAIN: Final = 1 / 8
"""How many of the recoveries are followed by another boot and a recovery of what the first one left."""

Trial = Callable[[Copy, Damage, random.Random], str]


@dataclass(frozen=True)
class _Batch:
    """Damages that are all tried in the same way."""

    trial: Trial
    damages: Sequence[Damage]
    rebooted: bool
    durable: int = 0


def check(run: Run) -> Iterator[Finding]:
    """Every truncation and every flipped bit; a random choice of them in a quick run."""
    choices = run.random("damage", "specimen")
    with tempfile.TemporaryDirectory(prefix="maestro-damage-", dir=MEMORY if MEMORY.is_dir() else None) as directory:
        made = specimen.make(Path(directory), choices)
    yield _check_truncations(run, made)
    yield _check_flips_recovered(run, made)
    yield _check_flips_read(run, made)


def _check_truncations(run: Run, made: Specimen) -> Finding:
    offsets = _chosen(range(END), run.count(full=END, quick=300), run.random("damage", "truncations"))
    zeros = [zeros_from(made.image, offset) for offset in offsets]
    ends = [end_of_file_at(offset) for offset in offsets]
    batches = [
        *(_Batch(_recover, damages, rebooted=True, durable=end) for damages in (zeros, ends) for end in (0, END)),
        *(_Batch(_read_some, damages, rebooted=False) for damages in (zeros, ends)),
    ]
    tally = _try_all(run, made, batches, "truncations")
    figure = (
        f"log of 64 KiB cut at {_of(offsets, END)} bytes, the rest zeros and the file's end: each recovered after "
        "another boot, with durable watermark 0 and at the end, and read within the same boot"
    )
    return _finding(run, made, figure, tally, damage_plants.of_truncations(made))


def _check_flips_recovered(run: Run, made: Specimen) -> Finding:
    choices = run.random("damage", "flips", "recovered")
    fields = made.field_bits()
    one_of_each_byte = {offset * 8 + choices.randrange(8) for offset in range(END)}
    whole = _chosen(sorted(fields | one_of_each_byte), run.count(full=END * 8, quick=1_200), choices)
    at_the_end = _chosen(sorted(one_of_each_byte), run.count(full=END * 8, quick=600), choices)
    others = set(range(END * 8)) - fields - one_of_each_byte
    scanned = _chosen(sorted(others), run.count(full=END * 8, quick=4_000), choices)
    batches = [
        _Batch(_recover, [flipped_bit(made.image, bit) for bit in whole], rebooted=True),
        _Batch(_recover, [flipped_bit(made.image, bit) for bit in at_the_end], rebooted=True, durable=END),
        _Batch(_scan, [flipped_bit(made.image, bit) for bit in scanned], rebooted=True),
    ]
    tally = _try_all(run, made, batches, "flips recovered")
    figure = (
        f"log of 64 KiB with {_of({*whole, *scanned}, END * 8)} bits flipped, after another boot: {len(whole):,} whole "
        "recoveries (one random bit of each byte, every bit of each header, file mark and void frame) and a scan from "
        f"the damaged frame on for {len(scanned):,} others; {len(at_the_end):,} also with durable watermark at the end"
    )
    return _finding(run, made, figure, tally, damage_plants.of_recovery(made))


def _check_flips_read(run: Run, made: Specimen) -> Finding:
    choices = run.random("damage", "flips", "read")
    bits = _chosen(range(END * 8), run.count(full=END * 8, quick=3_000), choices)
    one_of_each_byte = {offset * 8 + choices.randrange(8) for offset in range(END)}
    served = _chosen(sorted(one_of_each_byte | made.field_bits()), run.count(full=END * 8, quick=1_000), choices)
    batches = [
        _Batch(_read_stricken, [flipped_bit(made.image, bit) for bit in bits], rebooted=False),
        _Batch(_serve, [flipped_bit(made.image, bit) for bit in served], rebooted=False),
    ]
    tally = _try_all(run, made, batches, "flips read")
    figure = (
        f"log of 64 KiB with {_of(bits, END * 8)} bits flipped, within the same boot: the damaged stream and another "
        f"read; with {len(served):,} flips every stream read, the commit sent again, and new ones made"
    )
    return _finding(run, made, figure, tally, damage_plants.of_reading(made))


def _chosen(all_of_them: Sequence[int], count: int, choices: random.Random) -> Sequence[int]:
    return all_of_them if count >= len(all_of_them) else sorted(choices.sample(all_of_them, count))


def _of(some: Sequence[int] | set[int], count: int) -> str:
    return f"each of {count:,}" if len(some) == count else f"{len(some):,} random ones of {count:,}"


def _recover(copy: Copy, damage: Damage, choices: random.Random) -> str:
    verdict = check_recovery(copy, damage, again=choices.random() < _AGAIN)
    kind = kind_of(copy.specimen, damage)
    return f"recoveries {verdict}" if kind == LIVE_FRAME else f"recoveries, hit {kind}: {verdict}"


def _scan(copy: Copy, damage: Damage, _: random.Random) -> str:
    log = Log(copy.directory, 1, writable=False)
    check_scan(log, copy.specimen, damage)
    return "scans stopped at it"


def _read_some(copy: Copy, damage: Damage, choices: random.Random) -> str:
    """Two streams; a truncation hits nearly all of them."""
    return f"readers: {check_reads(copy, Stricken(copy.specimen, damage), choices.sample(KEYS, 2))}"


def _read_stricken(copy: Copy, damage: Damage, choices: random.Random) -> str:
    stricken = Stricken(copy.specimen, damage)
    verdict = check_reads(copy, stricken, stricken.keys() | {choices.choice(KEYS)})
    return f"readers: {verdict}" if verdict == SEEN else f"readers, {stricken.what()}: {verdict}"


def _serve(copy: Copy, damage: Damage, _: random.Random) -> str:
    stricken = Stricken(copy.specimen, damage)
    check_reads(copy, stricken, KEYS)
    try:
        check_journal(copy, stricken)
    finally:
        copy.mend_index()
    return "servers answered rightly"


def _try_all(run: Run, made: Specimen, batches: Sequence[_Batch], purpose: str) -> Tally:
    """Try every damage of every batch, on all cores; each has copies of its own."""

    def share(number: int, shares: int) -> Tally:
        choices = run.random("damage", purpose, number)
        return total(_try(made, batch, batch.damages[number::shares], choices) for batch in batches)

    return total(on_all_cores(share, seconds=_SECONDS))


def _try(
    made: Specimen,
    batch: _Batch,
    damages: Sequence[Damage],
    choices: random.Random,
    plant: AbstractContextManager[object] | None = None,
) -> Tally:
    tally = Tally()
    with copied(made, rebooted=batch.rebooted, durable=batch.durable) as copy, plant or nullcontext():
        for damage in damages:
            try:
                with copy.damaged(damage):
                    tally.note(batch.trial(copy, damage, choices))
            except UndetectedError as error:
                tally.note_wrong(UNDETECTED, error, f"damage at {damage.first}")
            except Exception as error:  # noqa: BLE001 (whatever the store should not have raised)
                tally.note_wrong(WRONG, error, f"damage at {damage.first}")
    return tally


def _finding(run: Run, made: Specimen, figure: str, tally: Tally, plants: Sequence[Plant]) -> Finding:
    caught, planted = _try_plants(run, made, plants)
    return Finding(
        figure=figure,
        goal=_GOAL,
        found=f"{tally.wrong[WRONG]} wrong, {tally.wrong[UNDETECTED]} undetected; {tally.shown()}",
        met=not tally.wrong.total(),
        planted=f"{caught} of {planted}",
        caught_all=caught == planted > 0,
    )


def _try_plants(run: Run, made: Specimen, plants: Sequence[Plant]) -> tuple[int, int]:
    """Damage stores with a fault of each kind; how many times the check said that something is wrong, of how many."""
    count = run.count(full=200, quick=20)
    caught = planted = 0
    for plant in plants:
        choices = run.random("damage", "plants", plant.name)
        damages = [plant.damage(choices) for _ in range(count)]
        batch = _Batch(_TRIALS[plant.trial], damages, rebooted=plant.rebooted, durable=plant.durable)
        tally = _try(made, batch, damages, choices, plant.planted())
        caught += tally.wrong.total()
        planted += tally.trials
    return caught, planted


_TRIALS: Final[dict[str, Trial]] = {
    "recover": lambda copy, damage, _: check_recovery(copy, damage, again=False),
    "recover twice": lambda copy, damage, _: check_recovery(copy, damage, again=True),
    "scan": _scan,
    "read": _read_stricken,
    "serve": _serve,
}
