"""Which curves a report draws, and the table behind each picture.

A `Plot` names the metrics of one picture; `plots_of` lists those of a report. `table` gives the rows of its CSV
file, one a logged step; `points` thins a curve for drawing. docs/metrics.md says what each metric means.
"""

import base64
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .._text import without_nan
from ..storage.metrics_log import GIVEN_SHARE
from ..storage.read_run import Run
from .trend import running_mean, smoothing_width

MOST_DRAWN = 300  # points of a curve; longer ones are drawn as means of equal blocks of steps
_REWARD = re.compile(r"rewards/(.+)/mean")
TIME_PARTS = ("sampling", "update", "credit", "verifying", "other", "environments")  # what a step's time is split into


@dataclass(frozen=True)
class Plot:
    """One picture of a report.

    key: its name, which CSV files and links use.
    title: its heading.
    curves: (metric, label) pairs.
    unit: what the y axis shows.
    reads: how to read it, in sentences.
    percent: whether the values are shares, shown in percent.
    zero_line: whether a line marks 0.
    log: whether the y axis is logarithmic.
    threshold: a value marked by a dotted line, in the metric's unit.
    stacked: whether the curves are layers that add up.
    from_zero: whether the y axis begins at 0.
    least_top: how far up a y axis from 0 goes at least, so that tiny values do not fill the picture.
    unless_zero: whether there is no picture where all values are 0, since they say only that something is not in use.
    """

    key: str
    title: str
    curves: tuple[tuple[str, str], ...]
    unit: str
    reads: str
    percent: bool = False
    zero_line: bool = False
    log: bool = False
    threshold: float | None = None
    stacked: bool = False
    from_zero: bool = True
    least_top: float = 0.02
    unless_zero: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, in the order of the curves."""
        return tuple(name for name, _ in self.curves)


ACCURACY = Plot(
    "accuracy",
    "Accuracy",
    (("ibtpo/avg_rate", "in training (trees' leaves)"), ("ibtpo/policy_rate", "in training (first answers)")),
    "accuracy",
    "The curves are the mean correctness of the trees' leaves, and that of their first answers alone. The search "
    "branches where it scores high, so the leaves do not show the policy's own accuracy; the first answers do, and the "
    "held-out points, with 95 % intervals.",
    percent=True,
)
PLOTS: tuple[Plot, ...] = (
    Plot(
        "signal",
        "Groups that carry a signal",
        (("ibtpo/eff_rate", "Eff-Rate"), ("ibtpo/rescued", "rescued")),
        "share of questions",
        "Eff-Rate: answers of the question differ in correctness; falling to 0, nothing can be learned. Rescued: a "
        "branch made them differ after the first answers were all right or all wrong.",
        percent=True,
    ),
    Plot(
        "cov",
        "Cov(η1, η2)",
        (("ibtpo/cov_eta", "Cov(η1, η2)"),),
        "covariance",
        "Positive: the model is confident where the information is. At 0 to stay: confidence no longer follows "
        "correctness. Negative: confident in the wrong branches.",
        zero_line=True,
        from_zero=False,
    ),
    Plot(
        "ib-score",
        "IB-Score",
        (("ibtpo/ib_score", "IB-Score"),),
        "score",
        "Mean over the nodes that can be branched at. Falling steadily: confidence grows without information.",
        from_zero=False,
    ),
    Plot(
        "entropy",
        "Entropy",
        (("ibtpo/entropy", "policy entropy"),),
        "nats a token",
        "Where tokens were sampled. To 0: collapse.",
    ),
    Plot(
        "kl",
        "KL to the reference model",
        (("kl", "KL"),),
        "nats a token",
        "How far the policy has moved.",
        from_zero=False,
    ),
    Plot(
        "loss",
        "Loss",
        (("loss", "loss"),),
        "loss",
        "Each group's advantages are centred, so its level says little; a jump says that something broke.",
        zero_line=True,
        from_zero=False,
    ),
    Plot(
        "grad-norm",
        "Gradient norm",
        (("grad_norm", "before clipping"),),
        "norm",
        "Before max_grad_norm clips it. Spikes: single batches drive the update. At 0: nothing is learned.",
    ),
    Plot(
        "clip",
        "Clipped tokens",
        (
            ("clip_ratio/region_mean", "all"),
            ("clip_ratio/low_mean", "below 1 − ε"),
            ("clip_ratio/high_mean", "above 1 + ε"),
        ),
        "share of tokens",
        "Tokens whose ratio to the sampling policy left the trust region, so that they did not count. Rising: the "
        "steps are too large, or the samples too old.",
        percent=True,
        unless_zero=True,
    ),
    Plot("rate", "Learning rate", (("learning_rate", "learning rate"),), "learning rate", "As scheduled."),
    Plot(
        "length",
        "Length of an answer",
        (("ibtpo/length", "tokens"),),
        "tokens",
        "Growing together with accuracy: part of the gain may be trying longer.",
    ),
    Plot(
        "given",
        "Observations' share of the tokens",
        ((GIVEN_SHARE, "given by the environment"),),
        "share of tokens",
        "Tokens that environments wrote, such as tools' results, of all tokens. Rising: the context is spent on them.",
        percent=True,
        unless_zero=True,
    ),
    Plot(
        "truncated",
        "Truncated answers",
        (("ibtpo/truncated", "cut by the length limit"),),
        "share of answers",
        "Above 10 %: raise max_completion_length, or see why answers do not end.",
        percent=True,
        threshold=0.1,
    ),
    Plot(
        "branches",
        "Where branches start",
        (
            ("ibtpo/branch_cost", "cost (of a whole answer)"),
            ("ibtpo/branch_depth", "depth (of an answer's steps)"),
            ("ibtpo/root_branches", "share at the root"),
        ),
        "share",
        "Cost near 100 % and all at the root: the tree is a star and shares nothing. The paper's branches cost 48 %.",
        percent=True,
    ),
    Plot(
        "bought",
        "Answers bought with the tokens",
        (("ibtpo/trajectories_per_1k_tokens", "trajectories"),),
        "per 1 000 tokens",
        "Falls as answers grow longer. Not above independent sampling's: branches start too early.",
    ),
    Plot(
        "distinct",
        "Distinct answers, shared tokens",
        (("ibtpo/distinct", "distinct answers"), ("ibtpo/unique_ratio", "tokens not shared")),
        "share",
        "Distinct below 70 %: answers repeat word for word. Tokens not shared near 100 %: the tree shares nothing.",
        percent=True,
    ),
    Plot(
        "gap",
        "Log-prob gap of engine and trainer",
        (("sampling/logp_gap_max", "largest gap"),),
        "nats",
        "Above 0.001 in float32: engine and trainer disagree about the model.",
        log=True,
        from_zero=False,
        threshold=1e-3,
    ),
    Plot(
        "verifier",
        "Answers the verifier could not judge",
        (("ibtpo/verifier_errors", "verifier errors"),),
        "answers a step",
        "Crashes, time-outs and exceptions: no reward, not a wrong answer. Above 1 %: look at the verifier.",
        least_top=1.0,
    ),
    Plot(
        "time",
        "Where the time goes",
        tuple((f"time/{part}", part) for part in TIME_PARTS),
        "seconds a step",
        "Other above 10 %: the time is in none of the parts that are named.",
        stacked=True,
    ),
)


def table(run: Run, metrics: Sequence[str]) -> tuple[list[str], list[list[float | int | None]]]:
    """The header and the rows of a plot's CSV file, one row a logged step.

    The columns are the step, the tokens generated and the seconds of training so far, then the metrics; a value that is
    not known is None.
    """
    c = run.curves
    columns = [c[name] for name in metrics]
    rows = [
        [int(c.steps[i]), *(without_nan(float(column[i])) for column in (c.tokens, c.seconds, *columns))]
        for i in range(len(c.steps))
    ]
    return ["step", "generated_tokens_total", "seconds_total", *metrics], rows


def plots_of(runs: Sequence[Run]) -> list[Plot]:
    """The plots against the step for which any of the runs has something to draw, in order."""
    return [plot for plot in (*PLOTS[:2], *_rewards(runs), *PLOTS[2:]) if logged(runs, plot)]


def logged(runs: Sequence[Run], plot: Plot) -> bool:
    """Whether any of the runs has a value to draw in this plot."""
    return any(
        run.curves.has(name) and (not plot.unless_zero or bool(np.nan_to_num(run.curves[name]).any()))
        for run in runs
        for name in plot.metrics
    )


def _rewards(runs: Sequence[Run]) -> list[Plot]:
    """The plot of the mean of each reward function, as TRL logs them; none if nothing was logged."""
    names = sorted({name for run in runs for name in run.curves.columns if _REWARD.fullmatch(name)})
    curves = tuple((name, _REWARD.fullmatch(name)[1]) for name in names)  # type: ignore[index]
    reads = (
        "Mean of each reward function over the trees' leaves, before weights. One that rises while accuracy does not: "
        "the model plays to it."
    )
    return [Plot("rewards", "Rewards", curves, "reward", reads, from_zero=False)] if curves else []


def points(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The points to draw of a curve: those that are finite, thinned to at most `MOST_DRAWN` means of equal blocks.

    x: (n,) places on the x axis, NaN where not known.
    y: (n,) values, NaN where not known.

    Returns x and y, (m,) each, and how many steps one point stands for.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    size = math.ceil(len(x) / MOST_DRAWN)
    if size <= 1:
        return x, y, 1
    starts = np.arange(0, len(x), size)
    count = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / count, np.add.reduceat(y, starts) / count, size


def smoothed(y: np.ndarray, steps: int) -> np.ndarray:
    """The running mean of a curve that `points` may have thinned, to be drawn over it.

    y: (m,) values as drawn.
    steps: how many steps the curve had; the mean covers about `smoothing_width(steps)` of them, and at least 5 points.

    Returns (m,) means.
    """
    block = max(1, steps // max(1, len(y)))
    return running_mean(y, max(5, smoothing_width(steps) // block | 1))


def csv_lines(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """CSV text (RFC 4180), line by line; a None is an empty field.

    A text that a spreadsheet would take for a formula gets a quote before it, since a run's text may come from anybody.
    """
    for row in (header, *rows):
        yield ",".join(_field(value) for value in row) + "\r\n"


def csv_address(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same CSV text as a `data:` address, so that a link can hold it."""
    text = "".join(csv_lines(header, rows))
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def _field(value: object) -> str:
    """A value as a field of CSV, in quotes where it holds a comma, a quote or a line end."""
    if value is None:
        return ""
    text = str(value)
    if isinstance(value, str) and text[:1] in ("=", "+", "-", "@"):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text
