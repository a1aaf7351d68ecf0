"""Measures in pairs, and writes the results to results.json and results.md, or to other files of one name.

A row compares one figure of ours with a peer's. Both are measured in the same run, in turn, by default five times.
Written are the median of each, and the median of the pairwise ratios. A ratio above 1 means that ours is better,
whatever the unit.
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
    """One result.

    name: what is measured.
    peer: what ours is compared with.
    ours, theirs: the median figures, in `unit`.
    ratio: the median of the pairwise ratios, above 1 if ours is better.
    target: the ratio aimed at.
    runs: how many pairs were measured.
    machine: where, as `machine()` gives it.
    note: what a reader has to know besides.
    """

    name: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    target: float
    runs: int
    machine: str
    note: str = ""


def machine() -> str:
    """This machine's processor and cores, its GPU if it has one, and the versions of torch and transformers."""
    import torch
    import transformers

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")  # on Linux, where `platform` does not know the model
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{model}, {os.cpu_count()} cores{card}, {versions}"


def timed(work: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def paired(
    ours: Callable[[], float], theirs: Callable[[], float], runs: int, *, warm_up: bool = True
) -> tuple[list[float], list[float]]:
    """Measures ours and the peer in turn.

    ours, theirs: measure one figure each.
    runs: how many pairs to measure.
    warm_up: whether to call each once before, unmeasured.

    Returns (runs,) figures of ours and (runs,) figures of the peer.
    """
    if warm_up:
        ours()
        theirs()
    pairs = []
    for i in range(runs):
        if i % 2:  # Ours goes first in one pair, the peer in the next.
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
    target: float,
    *,
    more_is_better: bool,
    note: str = "",
) -> Row:
    """Makes a row from paired figures.

    ours, theirs: (runs,) figures, pair by pair.
    more_is_better: whether a higher figure is the better one.
    name, peer, unit, target, note: see `Row`.
    """
    ratios = [a / b if more_is_better else b / a for a, b in zip(ours, theirs, strict=True)]
    return Row(
        name, peer, statistics.median(ours), statistics.median(theirs), unit, statistics.median(ratios), target,
        len(ours), machine(), note,
    )  # fmt: skip


def write(rows: Sequence[Row], path: Path = HERE / "results.json", command: str = "make bench") -> None:
    """Writes rows to both files, in place of earlier rows with the same name and peer.

    path: the JSON file; the page has its name with `.md`.
    command: what makes them.
    """
    old = [Row(**r) for r in json.loads(path.read_text())] if path.exists() else []
    new = {(r.name, r.peer) for r in rows}
    rows = [*(r for r in old if (r.name, r.peer) not in new), *rows]
    path.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    lines = [
        "# Benchmarks", "", f"Medians of paired runs; a ratio above 1 means ours is better. Made by `{command}`.", "",
        "| what | peer | ours | theirs | unit | ratio | target | runs | note |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | ---: | --- |",
    ]  # fmt: skip
    for r in rows:
        figures = f"{r.ours:.4g} | {r.theirs:.4g} | {r.unit} | {r.ratio:.2f} | {r.target:.2f} | {r.runs}"
        lines.append(f"| {r.name} | {r.peer} | {figures} | {r.note} |")
    machines = sorted({r.machine for r in rows})
    path.with_suffix(".md").write_text("\n".join([*lines, "", *machines]) + "\n")
