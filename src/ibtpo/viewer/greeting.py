"""The first lines of a page: what was learned, as far as the folders of its trees say, and what trees there are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .._text import percent, visible
from ..errors import IBTPOError
from ..storage.run_folder import RunFolder
from .data import tree_key
from .matching import matches, summary
from .sources import Source


def greeting(sets: Sequence[Source], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines, as plain text.

    sets: the sets of trees of the page.
    entries: what `data.index_entry` returned for each tree.
    """
    lines: list[str] = []
    if len(sets) > 1:
        lines.append(summary(matches(entries, 0, len(sets) - 1), sets[0].label, sets[-1].label))
    lines += [line for s in sets if s.is_run and (line := _held_out(s, len(sets) > 1))]
    for folder in dict.fromkeys(s.path for s in sets if not s.is_run and s.path.is_dir()):
        lines += _verdict(folder / "summary.json")
    return [*lines, _trees(entries)]


def _held_out(source: Source, several: bool) -> str:
    """What held-out accuracy did in a run, with 95 % intervals; empty if it was not measured, or cannot be read."""
    try:
        found = RunFolder(source.path).read_eval()
        before, after = ((found[k], percent(found[k]["avg"], found[k]["avg_ci"])) for k in ("before", "after"))
        k, n = after[0]["k"], after[0]["n"]
    except (IBTPOError, OSError, KeyError, TypeError, IndexError):
        return ""
    whose = f"{source.label}: held-out" if several else "Held-out"
    return f"{whose} accuracy went from {before[1]} to {after[1]} in training (avg@{k} on {n} problems)."


def _verdict(file: Any) -> list[str]:
    """What `ibtpo diagnose` found to have changed from its first checkpoint to its last."""
    try:
        return [f"{line}." for line in json.loads(file.read_text("utf-8"))["verdict"] if isinstance(line, str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _trees(entries: Sequence[Mapping[str, Any]]) -> str:
    trees, problems = len(entries), len({e["id"] for e in entries})
    steps = sorted({e["step"] for e in entries if e["step"] is not None})
    when = "" if not steps else f", of step {steps[0]}" if len(steps) == 1 else f", of steps {steps[0]} to {steps[-1]}"
    mixed, saved = (sum(e[name] for e in entries) for name in ("effective", "rescued"))
    return (
        f"{trees} tree{'s' * (trees != 1)} of {problems} problem{'s' * (problems != 1)}{when}. In {mixed} the answers "
        f"differ in correctness, so that they carry a signal; in {saved} of these only thanks to a branch."
    )


def first_link(sets: Sequence[Source], entries: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Where a newcomer best begins: the part of the address after #, and what it leads to; None for nothing special.

    Of several sets this is the problem that changed most, else the latest tree that a branch rescued, or whose answers
    differ.
    """
    if len(sets) > 1 and (found := matches(entries, 0, len(sets) - 1)) and found[0].change:
        return f"pair={tree_key(found[0].before['id'])}", "the problem that changed most"
    for name, words in (
        ("rescued", "a tree that a branch rescued"),
        ("effective", "a tree with right and wrong answers"),
    ):
        for entry in reversed(entries):
            if entry[name]:
                label = visible(sets[entry["set"]].label, "") if len(sets) > 1 else None
                return f"tree={tree_key(entry['id'], entry['step'], label)}", words
    return None
