"""Times how long pages of many trees take to open in a headless Chromium, beside a bound of two seconds."""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness import Row, machine, write
from playwright.sync_api import sync_playwright

from ibtpo.tree import ReasoningTree, Step
from ibtpo.viewer.page import write_viewer

BOUND = 2.0  # seconds


def tree(right: int) -> ReasoningTree:
    """A tree of four answers of two steps, of which `right` are right."""
    found = ReasoningTree("t", [1], "a question of some length " * 8)
    for i in range(4):
        steps = [Step((i, 5), f"step {i}\n\n", (-0.7, -0.1), None), Step((9,), "end", (-0.2,), None)]
        found.add(0, steps, float(i < right), "eos", round=0)
    return found


def write_trees(path: Path, count: int, right: int) -> Path:
    """Writes `count` such trees, which differ by their ids."""
    row = tree(right).to_dict()
    path.write_text("".join(json.dumps({**row, "id": f"q{i:05d}"}) + "\n" for i in range(count)))
    return path


def main(runs: int = 5) -> None:
    """Writes a row for each page; the median of `runs` counts."""
    rows = []
    with tempfile.TemporaryDirectory() as place, sync_playwright() as p:
        folder = Path(place)
        sets = [write_trees(folder / f"{name}.jsonl", 1000, right) for name, right in (("start", 1), ("end", 3))]
        pages = {
            "a page of 10,000 trees opens": write_viewer(write_trees(folder / "many.jsonl", 10_000, 2)).output,
            "two checkpoints of 1,000 problems open": write_viewer(sets, folder / "pair.html").output,
        }
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        for name, file in pages.items():
            seconds = []
            for _ in range(runs):
                page = browser.new_page()
                began = time.perf_counter()
                page.goto(file.as_uri())
                page.wait_for_selector(".rows a:visible")
                seconds.append(time.perf_counter() - began)
                page.close()
            taken = statistics.median(seconds)
            rows.append(Row(name, "the bound", taken, BOUND, "s", BOUND / taken, 1.0, runs, machine()))
        browser.close()
    write(rows)
    for r in rows:
        print(r)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
