"""Matches the trees of two sets by the ids of their problems: what did training change on this very prompt?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]  # what `data.index_entry` returns


@dataclass(frozen=True, slots=True)
class Match:
    """A problem that both sets have a tree of.

    before, after: the entries of the two trees.
    change: by how much the share of right answers rose from the one to the other, −1 to 1; None if one is not known.
    """

    before: Entry
    after: Entry
    change: float | None


def matches(entries: Sequence[Entry], first: int, last: int) -> list[Match]:
    """The problems that two sets have in common, those with the largest change first, then in the order of `first`.

    Where a set has several trees of a problem, as a run has after an epoch, the latest counts.

    entries: those of all trees of a page.
    first: the place of the set that is taken for the earlier one.
    last: that of the later one.
    """
    sets: list[dict[str, Entry]] = [{}, {}]
    for entry in entries:
        for place, trees in zip((first, last), sets, strict=True):
            if entry["set"] == place:
                trees[entry["id"]] = entry
    before, after = sets
    found = [Match(e, after[id], _change(e, after[id])) for id, e in before.items() if id in after]
    return sorted(found, key=lambda m: 1.0 if m.change is None else -abs(m.change))


def _change(before: Entry, after: Entry) -> float | None:
    a, b = before["success"], after["success"]
    return None if a is None or b is None else b - a


def summary(found: Sequence[Match], first: str, last: str) -> str:
    """The changes of all problems in a sentence or two.

    found: what `matches` returned.
    first, last: the labels of the two sets.
    """
    known = [m for m in found if m.change is not None]
    if not found:
        return f"{first} and {last} have no problem in common, so nothing can be compared."
    if not known:
        return f"{_many(len(found))} in both {first} and {last}; none was graded in both."
    fell, rose = (sum(way * m.change > 1e-9 for m in known if m.change is not None) for way in (-1, 1))
    lost = sum(m.before["success"] > 0 and m.after["success"] <= 0 for m in known)
    a, b = (
        sum(e["success"] for e in side) / len(known) for side in ([m.before for m in known], [m.after for m in known])
    )
    return (
        f"From {first} to {last}, over {_many(len(known))} in both: {100 * a:.1f} % → {100 * b:.1f} % of a tree's "
        f"answers are right. {fell} fell, {rose} rose, {len(known) - fell - rose} stayed; {lost} lost every right "
        "answer."
    )


def _many(n: int) -> str:
    return f"{n} problem{'s' * (n != 1)}"
