"""Paired measurements and the two files they are written to: results.json and results.md.

A row compares one figure of ours with a peer's, measured in the same run, in turn, at least five times; what is written
is the median of each and the median of the pairwise ratios. A ratio above 1 means ours is better, whatever the unit.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass
class Row:
    """One line of results.json. ratio: above 1 ours is better. target: the ratio aimed at; None where none was set."""

    name: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    target: float | None
    runs: int
    machine: str
    note: str = ""


def machine() -> str:
    """Processor, cores and library versions."""
    import torch
    import transformers

    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def timed(work: Callable[[], object]) -> float:
    """Seconds one call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def paired(
    ours: Callable[[], float], theirs: Callable[[], float], runs: int, *, warm_up: bool = True
) -> tuple[list[float], list[float]]:
    """(runs,) figures of each, measured in turn, after a warm-up of each unless a run has one of its own."""
    if warm_up:
        ours()
        theirs()
    pairs = []
    for i in range(runs):
        if i % 2:  # who goes first takes turns, too
            theirs_first = theirs()
            pairs.append((ours(), theirs_first))
        else:
            ours_first = ours()
            pairs.append((ours_first, theirs()))
    return [a for a, _ in pairs], [b for _, b in pairs]


def row(
    name: str,
    peer: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    target: float | None,
    *,
    more_is_better: bool,
    note: str = "",
) -> Row:
    """A row from paired figures."""
    ratios = [a / b if more_is_better else b / a for a, b in zip(ours, theirs, strict=True)]
    return Row(
        name, peer, statistics.median(ours), statistics.median(theirs), unit, statistics.median(ratios), target,
        len(ours), machine(), note,
    )  # fmt: skip


def write(rows: Sequence[Row]) -> None:
    """Puts the rows into both files, in place of earlier ones of the same name and peer."""
    path = HERE / "results.json"
    old = [Row(**r) for r in json.loads(path.read_text())] if path.exists() else []
    new = {(r.name, r.peer) for r in rows}
    rows = [*(r for r in old if (r.name, r.peer) not in new), *rows]
    path.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    lines = [
        "# Benchmarks", "", "Medians of paired runs; a ratio above 1 means ours is better. Made by `make bench`.", "",
        "| what | peer | ours | theirs | unit | ratio | target | runs | note |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | ---: | --- |",
    ]  # fmt: skip
    for r in rows:
        target = "" if r.target is None else f"{r.target:.2f}"
        figures = f"{r.ours:.4g} | {r.theirs:.4g} | {r.unit} | {r.ratio:.2f} | {target} | {r.runs}"
        lines.append(f"| {r.name} | {r.peer} | {figures} | {r.note} |")
    machines = sorted({r.machine for r in rows})
    (HERE / "results.md").write_text("\n".join([*lines, "", *machines]) + "\n")
