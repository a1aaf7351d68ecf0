"""The picture: every arm's signal to noise and learning at the operating points, and as problems grow deeper."""

from pathlib import Path
from typing import Any

from arms import ARMS
from calibrate import POINTS

COLUMNS = ("paper", "alike", "late", "starved")
DEPTHS = {6: "deep6", 12: "deep12", 24: "deep24"}
OF_DEPTH = ("IB-TPO", "IB-TPO, sqrt", "EPTree + IB-TPO", "TreeRL", "independent + IB-TPO")


def _signal(summary: dict[str, Any], point: str, arm: str) -> list[float] | None:
    rows = summary["points"][point].get("gradient", {}).get("rows", ())
    found = (r["signal"]["step"]["ratio"] for r in rows if (r["growth"], r["credit"]) == ARMS[arm])
    return next(found, None)


def _difference(summary: dict[str, Any], point: str, arm: str) -> list[float] | None:
    rows = summary["points"][point]["learning"]
    return next((row["difference"] for row in rows if row["arm"] == arm), None)


def _empty(axis: Any) -> None:
    axis.set(xticks=[], yticks=[])
    axis.text(0.5, 0.5, "not measured yet", ha="center", va="center", color="0.5", transform=axis.transAxes)


def draw(summary: dict[str, Any], folder: Path) -> None:
    """Writes picture.svg and picture.png."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "ibtpo", "svg.fonttype": "none", "font.size": 8}
    import matplotlib.pyplot as plt

    arms = [arm for arm in ARMS if arm != "GRPO"]
    figure, axes = plt.subplots(2, 5, figsize=(15, 7.5), layout="constrained")
    kinds = (("signal to noise, GRPO = 1", _signal, 1.0), ("points above GRPO after training", _difference, 0.0))
    for line, (label, get, equal) in enumerate(kinds):
        for axis, point in zip(axes[line], COLUMNS, strict=False):
            p, known = POINTS[point], {y: get(summary, point, arm) for y, arm in enumerate(arms)}
            if line == 0:
                axis.set_title(f"{p.about}\n{100 * p.success:.0f} % right, {100 * p.mixed:.0f} % mixed")
            if not any(known.values()):
                _empty(axis)
                continue
            axis.axvline(equal, color="0.6", linewidth=1)
            for y, value in known.items():
                if value is not None:
                    color = "C3" if arms[y] == "IB-TPO" else "C0"
                    axis.plot(value[1:], [y, y], color=color)
                    axis.plot(value[0], y, "o", color=color, markersize=4)
            axis.set(yticks=range(len(arms)), ylim=(len(arms) - 0.5, -0.5), xlabel=label)
            axis.set_yticklabels(arms if point == COLUMNS[0] else [])
        axis = axes[line][-1]
        if line == 0:
            axis.set_title("as problems grow deeper\nthe paper's point")
        for arm in OF_DEPTH:
            values = {d: get(summary, point, arm) for d, point in DEPTHS.items()}
            known = {d: v for d, v in values.items() if v is not None}
            if known:
                middle = [v[0] for v in known.values()]
                spread = [[v[0] - v[1] for v in known.values()], [v[2] - v[0] for v in known.values()]]
                axis.errorbar(list(known), middle, spread, marker="o", markersize=4, capsize=2, label=arm)
        if axis.get_legend_handles_labels()[0]:
            axis.axhline(equal, color="0.6", linewidth=1)
            axis.legend(fontsize=7)
            axis.set(xlabel="steps of an answer", ylabel=label, xticks=list(DEPTHS))
        else:
            _empty(axis)
    for ending in ("svg", "png"):
        metadata = {"Date": None} if ending == "svg" else None
        figure.savefig(folder / f"picture.{ending}", metadata=metadata, dpi=120)
    plt.close(figure)
