"""The findings of a run report: what a run's numbers say in words.

Each function in `RULES` looks at one question, such as whether the entropy collapsed, and always answers with a
`Finding`: a sentence, the evidence for it, and the rule that was applied. Its state is "good", "look" (worth a look),
"bad", or "unknown" where there is too little data or nothing stands out from the noise. docs/report.md lists the rules
and their thresholds; `trend` explains the test that tells a trend from noise.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from ..storage.read_run import Run
from .differences import paired_change
from .trend import ALPHA, LEAST_STEPS, SIGMAS, Level, Trend, find_trend, since, smoothing_width, trend

# What the page calls each state, the most pressing first.
STATES = {"bad": "Problem", "look": "Look at this", "good": "Good", "unknown": "Nothing to say"}
GAP_FLOAT32 = 1e-3  # largest log-probability gap of engine and trainer, in nats, that float32 rounding explains
MOST_ERRORS = 0.01  # share of the trajectories with a verifier error; more than this is a problem
MOST_OTHER = 0.1  # share of the training time that may go to none of the named parts
Z95 = 1.959964  # half the width of a 95 % interval of a normal distribution, in standard errors


@dataclass(frozen=True)
class Finding:
    """A rule's answer about a run.

    state: a key of `STATES`.
    title: the answer, as a sentence.
    evidence: the numbers it rests on, in words.
    rule: when the rule says what, in words.
    plot: where on the page the evidence is drawn: a `Figure`'s key, or "held-out" for the table of held-out accuracy.
    too_short: whether only a longer run could be judged.
    held_out: whether it is the one about held-out accuracy, which `headline` begins with.
    """

    state: str
    title: str
    evidence: str
    rule: str
    plot: str = ""
    too_short: bool = False
    held_out: bool = False


def judge_run(run: Run) -> list[Finding]:
    """Every rule's answer about a run, the most pressing first."""
    order = list(STATES)
    return sorted((rule(run) for rule in RULES), key=lambda f: order.index(f.state))


def headline(findings: list[Finding]) -> str:
    """The findings in two or three sentences: held-out accuracy, and how much below is worth reading."""
    held_out = next(f for f in findings if f.held_out)
    first = held_out.title if held_out.state != "unknown" else "Held-out accuracy: nothing to say."
    bad, look = (sum(f.state == s for f in findings) for s in ("bad", "look"))
    if any(f.too_short for f in findings):
        first += " The run is too short to speak of trends."
    if not bad + look:
        return f"{first} No rule found a problem."
    parts = [f"{n} {word if n == 1 else word + 's'}" for n, word in ((bad, "problem"), (look, "thing")) if n]
    return f"{first} Below: {' and '.join(parts)} to look at."


def difference(before: dict[str, Any], after: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    """How much held-out accuracy changed: (after − before, low, high), low and high the ends of a 95 % interval.

    before: the result of the evaluation before training, as `eval.json` holds it.
    after: the same for the evaluation after training.
    name: "avg" or "pass".

    The two are taken as independent. They are measured on the same problems, which makes the true interval narrower.
    Returns None where one of the two is not known.
    """
    if before.get(name) is None or after.get(name) is None:
        return None
    errors = [(r[f"{name}_ci"][1] - r[f"{name}_ci"][0]) / (2 * Z95) for r in (before, after)]
    change = after[name] - before[name]
    margin = Z95 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    return change, change - margin, change + margin


Answer = tuple[str, str, str]  # state, title and evidence of a `Finding`
_TEST = f"Mann-Kendall p < {ALPHA:g}, whole run or second half"


def _on_curve(
    metric: str, what: str, plot: str, rule: str
) -> Callable[[Callable[[Run, Trend], Answer]], Callable[[Run], Finding]]:
    """A decorator that makes a rule of a function that judges a metric, given the run and the metric's trend.

    Where the metric has too few values to speak of a trend, the rule says that, and the function is not asked.

    metric: the metric's name.
    what: what it is called if it has too few values.
    plot, rule: see `Finding`.
    """

    def decorate(judge: Callable[[Run, Trend], Answer]) -> Callable[[Run], Finding]:
        def apply(run: Run) -> Finding:
            n = int(np.isfinite(run.curves[metric]).sum())
            t = trend(run.curves.steps, run.curves[metric])
            if t is not None:
                return Finding(*judge(run, t), rule, plot)
            if not n:
                return Finding("unknown", f"{what}: no data.", "Not logged in this run.", rule, plot)
            why = f"{n} of the {LEAST_STEPS} steps it takes to tell a trend from noise."
            return Finding("unknown", f"{what}: too short a run.", why, rule, plot, too_short=True)

        return apply

    return decorate


def _held_out(run: Run) -> Finding:
    rule = (
        "After minus before; beyond chance when its 95 % interval leaves out 0. It is paired over the problems where "
        "each one's grades are stored, else the two are taken as independent."
    )
    return Finding(*_judge_held_out(run), rule, "held-out", held_out=True)


def _judge_held_out(run: Run) -> Answer:
    before, after = run.evals.get("before"), run.evals.get("after")
    found = difference(before, after, "avg") if before and after else None
    if not before or not after or found is None:
        return "unknown", "Held-out accuracy was not measured before and after.", ""
    paired = paired_change(run)
    change, low, high = astuple(paired) if paired else found
    evidence = (
        f"avg@{before['k']} on {before['n']} problems {_pc(before['avg'])} → {_pc(after['avg'])}, change "
        f"{100 * change:+.1f} points, interval {100 * low:+.1f} to {100 * high:+.1f}."
    ).replace("-", "−")
    if (before["k"], before["n"]) != (after["k"], after["n"]):
        evidence += f" Before and after were not measured alike: after with k {after['k']} on {after['n']} problems."
    if low > 0:
        return "good", f"Held-out accuracy rose by {100 * change:.1f} points.", evidence
    if high < 0:
        return "bad", f"Held-out accuracy fell by {-100 * change:.1f} points.", evidence
    return "look", "Held-out accuracy did not move beyond its interval.", evidence


@_on_curve(
    "ibtpo/avg_rate",
    "Accuracy in training",
    "accuracy-tokens",
    f"A trend beyond chance ({_TEST}) of at least 5 points.",
)
def _training_accuracy(run: Run, t: Trend) -> Answer:
    moved = _find(run, "ibtpo/avg_rate", lambda t: abs(t.change) >= 0.05)
    if moved is None:
        return "unknown", "Accuracy in training has no clear trend.", _evidence(t, percent=True)
    note = " It is the mean over the leaves, which the search's branching biases: held-out accuracy decides."
    if run.curves.has("ibtpo/policy_rate"):
        own = trend(run.curves.steps, run.curves["ibtpo/policy_rate"])
        note += f" That of the first answers went from {_pc(own.first.mean)} to {_pc(own.last.mean)}." if own else ""
    state, word = ("good", "rose") if moved.rising else ("bad", "fell")
    return state, f"Accuracy in training {word}.", _evidence(moved, percent=True) + note


@_on_curve(
    "ibtpo/cov_eta",
    "Cov(η1, η2)",
    "cov",
    f"Collapse: above 0 in the first fourth by 2 standard errors, a fall beyond chance ({_TEST}), and in "
    f"the last fourth under half of that and not above 0 by {SIGMAS:g} standard errors. The step: from there on "
    f"the running mean is not above 0 by {SIGMAS:g} of its standard errors. Entropy stayed: it moved by less "
    f"than 15 %.",
)
def _covariance(run: Run, t: Trend) -> Answer:
    """Looks for what the paper sees under GRPO: Cov(η1, η2) goes to zero while the entropy may look healthy."""
    if t.last.below(0):
        title = "Cov(η1, η2) is negative: the model is confident in the wrong branches."
        return "bad", title, _evidence(t)
    fell = _find(run, "ibtpo/cov_eta", lambda t: not t.rising and t.change < 0)
    started = t.first.mean > 2 * t.first.error  # 2 are enough here, since the fall must pass a strict test of its own
    if started and fell and t.last.mean < t.first.mean / 2 and not t.last.above(0):
        half = t.first.mean / 2
        # `since` looks at a running mean. Where that covers fewer steps than a fourth, its error is larger.
        error = t.last.error * math.sqrt(max(1.0, t.n // 4 / smoothing_width(t.n)))
        level = min(half, SIGMAS * error)
        zero = since(run.curves.steps, run.curves["ibtpo/cov_eta"], lambda v: v < level)
        begin = since(run.curves.steps, run.curves["ibtpo/cov_eta"], lambda v: v < half)
        when = "" if zero is None else f" at step {zero}"
        at = f" It has been under half its start since step {begin}." if begin is not None else ""
        entropy = trend(run.curves.steps, run.curves["ibtpo/entropy"])
        while_ = ""
        if entropy:
            stayed = abs(entropy.ratio - 1) < 0.15
            while_ = " while entropy stayed" if stayed else " as entropy " + ("rose" if entropy.change > 0 else "fell")
            at += f" Entropy {_three(entropy.first.mean)} → {_three(entropy.last.mean)} nats."
        title = f"Cov(η1, η2) fell to 0{when}{while_}: confidence no longer follows correctness."
        return "bad", title, _evidence(fell) + at
    if t.last.above(0):
        title = "Cov(η1, η2) is above 0 to the end: confidence follows correctness."
        return "good", title, _evidence(t)
    title = "Cov(η1, η2) cannot be told from 0: too noisy to say whether confidence follows correctness."
    return "unknown", title, _evidence(t)


@_on_curve(
    "ibtpo/eff_rate",
    "Eff-Rate",
    "signal",
    f"Starving: under 25 % of the groups in the last fourth by {SIGMAS:g} standard errors. Falling: a fall beyond "
    f"chance ({_TEST}) by three tenths or more.",
)
def _eff_rate(run: Run, t: Trend) -> Answer:
    if t.last.below(0.25):
        begin = since(run.curves.steps, run.curves["ibtpo/eff_rate"], lambda v: v < 0.25)
        at = f" Under 25 % since step {begin}." if begin is not None else ""
        title = "Eff-Rate is starving: few groups carry a signal (too easy, too hard, or collapsed)."
        return "bad", title, _evidence(t, percent=True) + at
    fell = _find(run, "ibtpo/eff_rate", lambda t: not t.rising and t.ratio <= 0.7)
    if fell:
        return "look", "Eff-Rate is falling: fewer groups carry a signal.", _evidence(fell, percent=True)
    return "good", "Eff-Rate does not fall beyond chance.", _evidence(t, percent=True)


@_on_curve(
    "ibtpo/entropy",
    "Entropy",
    "entropy",
    f"A trend beyond chance ({_TEST}): collapse when the last fourth is under half the first, falling under 80 %, "
    f"growing over 150 %.",
)
def _entropy(run: Run, t: Trend) -> Answer:
    if collapsed := _find(run, "ibtpo/entropy", lambda t: t.ratio < 0.5 and not t.rising):
        return "bad", "Entropy collapsed: answers become all alike.", _evidence(collapsed)
    if fell := _find(run, "ibtpo/entropy", lambda t: t.ratio < 0.8 and not t.rising):
        return "look", "Entropy is falling.", _evidence(fell)
    if grew := _find(run, "ibtpo/entropy", lambda t: t.ratio > 1.5 and t.rising):
        return "look", "Entropy grew: the policy becomes more random.", _evidence(grew)
    return "good", "Entropy neither collapses nor grows.", _evidence(t)


@_on_curve(
    "ibtpo/truncated",
    "Truncation",
    "truncated",
    f"Grew: a rise beyond chance ({_TEST}) by 5 points or more. High: over 10 % in the last fourth by {SIGMAS:g} "
    f"standard errors.",
)
def _truncation(run: Run, t: Trend) -> Answer:
    grew = _find(run, "ibtpo/truncated", lambda t: t.rising and t.change >= 0.05)
    limit = run.config.get("max_completion_length")
    advice = f" Raise max_completion_length{f' (now {limit})' if limit else ''}, or see why answers do not end."
    if grew:
        begin = since(run.curves.steps, run.curves["ibtpo/truncated"], lambda v: v > 0.1)
        at = f" Over 10 % since step {begin}." if begin is not None else ""
        state = "bad" if grew.last.above(0.1) else "look"
        title = "Truncation grew: more answers run into the length limit."
        return state, title, _evidence(grew, percent=True) + at + advice
    if t.last.above(0.1):
        title = "Many answers run into the length limit, from the start."
        return "look", title, _evidence(t, percent=True) + advice
    return "good", "Few answers run into the length limit.", _evidence(t, percent=True)


@_on_curve(
    "ibtpo/length",
    "Length",
    "length",
    f"A trend beyond chance ({_TEST}) of at least a fifth of the first fourth.",
)
def _length(run: Run, t: Trend) -> Answer:
    moved = _find(run, "ibtpo/length", lambda t: abs(t.ratio - 1) >= 0.2)
    if moved is None:
        return "good", "Answers keep their length.", _evidence(t)
    title = "Answers grew longer: part of a gain may be trying longer." if moved.rising else "Answers grew shorter."
    return "look", title, _evidence(moved, unit=" tokens")


@_on_curve(
    "ibtpo/ib_score",
    "IB-Score",
    "ib-score",
    f"A fall beyond chance ({_TEST}) by a tenth or more of the first fourth's absolute value, unless Cov(η1, η2) rose "
    f"beyond chance and is above 0: IB-Score is Cov(η1, η2) minus a share of the mean confidence.",
)
def _ib_score(run: Run, t: Trend) -> Answer:
    if fell := _find(run, "ibtpo/ib_score", lambda t: not t.rising and -t.change >= 0.1 * abs(t.first.mean)):
        if informed := _find(run, "ibtpo/cov_eta", lambda t: t.rising and t.last.above(0)):
            title = "IB-Score falls as confidence grows, and Cov(η1, η2) rises with it: confidence follows information."
            return "good", title, f"{_evidence(fell)} Cov(η1, η2) {_evidence(informed)}"
        return "look", "IB-Score is falling: confidence grows without information.", _evidence(fell)
    return "good", "IB-Score does not fall.", _evidence(t)


def _last_fourth(
    metric: str,
    what: str,
    plot: str,
    *,
    over: float | None = None,
    under: float | None = None,
    title: str,
    fine: str,
    percent: bool = False,
) -> Callable[[Run], Finding]:
    """A rule that looks at a metric's last fourth: "look" if it is beyond a limit by more than chance, else "good".

    metric, what, plot: see `_on_curve`.
    over: the largest harmless value, or
    under: the smallest harmless value; one of the two is given.
    title: the sentence if it is beyond the limit.
    fine: the sentence if it is not.
    percent: whether the metric is a share, shown in percent.
    """
    side, limit = ("under", under) if over is None else ("over", over)
    assert limit is not None
    shown = _pc(limit) if percent else _three(limit)

    @_on_curve(metric, what, plot, f"In the last fourth {side} {shown} by {SIGMAS:g} standard errors.")
    def rule(run: Run, t: Trend) -> Answer:
        beyond = t.last.above(limit) if side == "over" else t.last.below(limit)
        return "look" if beyond else "good", title if beyond else fine, f"Last fourth {_level_text(t.last, percent)}."

    return rule


def _verifier(run: Run) -> Finding:
    rule = f"All steps together: a problem above {_pc(MOST_ERRORS)} of the trajectories; any error is worth a look."
    errors, answers = run.curves["ibtpo/verifier_errors"], run.curves["ibtpo/trajectories"]
    total = float(np.nansum(answers))
    if not run.curves.has("ibtpo/verifier_errors") or not total:
        return Finding("unknown", "Verifier errors were not logged.", "", rule, "verifier")
    count = float(np.nansum(errors))
    evidence = f"{count:.0f} of {total:.0f} answers ({_pc(count / total)})."
    if count:
        first = int(run.curves.steps[np.flatnonzero(np.nan_to_num(errors) > 0)[0]])
        evidence += f" The first at step {first}. They get no reward; see meta.verifier_errors in the stored trees."
        state = "bad" if count / total > MOST_ERRORS else "look"
        return Finding(state, "The verifier could not judge some answers.", evidence, rule, "verifier")
    return Finding("good", "The verifier judged every answer.", evidence, rule, "verifier")


def _gap(run: Run) -> Finding:
    rule = f"Largest gap of a step's tokens above {GAP_FLOAT32:g}, for float32; other types are not judged."
    curve = run.curves["sampling/logp_gap_max"]
    if not np.isfinite(curve).any():
        return Finding("unknown", "The log-prob gap was not logged.", "", rule, "gap")
    worst = int(np.nanargmax(curve))
    evidence = f"Largest {curve[worst]:.2g}, at step {run.curves.steps[worst]}."
    dtype = run.config.get("dtype", "float32")
    if dtype != "float32" or run.config.get("bf16") or run.config.get("fp16"):
        return Finding("unknown", "The log-prob gap is not judged in 16 bit.", evidence, rule, "gap")
    beyond = int((np.nan_to_num(curve) > GAP_FLOAT32).sum())
    if beyond:
        evidence += f" Above {GAP_FLOAT32:g} in {beyond} of {int(np.isfinite(curve).sum())} steps."
        return Finding("bad", "Engine and trainer disagree about the model's log-probs.", evidence, rule, "gap")
    return Finding("good", "Engine and trainer agree about the model's log-probs.", evidence, rule, "gap")


def _other_time(run: Run) -> Finding:
    rule = f"All steps together: worth a look above {_pc(MOST_OTHER)}."
    total = float(np.nansum(run.curves["time/total"]))
    if not total:
        return Finding("unknown", "The time split was not logged.", "", rule, "time")
    other = float(np.nansum(run.curves["time/other"]))
    evidence = (
        f"{_pc(other / total)} of {total:.0f} s ({other:.1f} s) is neither sampling, environments, verifying, credit "
        "nor update."
    )
    if other / total > MOST_OTHER:
        return Finding("look", "Time goes to neither sampling nor learning.", evidence, rule, "time")
    return Finding("good", "The time goes to sampling and learning.", evidence, rule, "time")


def _find(run: Run, name: str, large: Callable[[Trend], bool]) -> Trend | None:
    """The metric's trend over the whole run or its second half, if it is beyond chance and `large`."""
    return find_trend(run.curves.steps, run.curves[name], large)


def _evidence(t: Trend, percent: bool = False, unit: str = "") -> str:
    """The means of the first and the last fourth with their standard errors, and the test's p, in words.

    percent: whether the metric is a share, shown in percent.
    unit: what follows the last number otherwise, such as " tokens".
    """
    p = f"p = {t.p:.2g}" if t.p >= 1e-4 else "p < 0.0001"
    return f"{_level_text(t.first, percent)} → {_level_text(t.last, percent)}{unit}; trend {p} over {t.n} steps."


def _level_text(level: Level, percent: bool) -> str:
    """A mean ± its standard error and the steps it is over, such as "0.012 ± 0.003 (steps 31–40)"."""
    where = f"(steps {level.begin}–{level.end})"
    if percent:
        text = f"{_pc(level.mean)} ± {_pc(level.error)} {where}"
    elif not level.error:
        text = f"{_three(level.mean)} {where}"
    else:
        # As many digits after the point as show two of the error's own.
        digits = min(8, max(0, 1 - math.floor(math.log10(level.error))))
        text = f"{level.mean:.{digits}f} ± {level.error:.{digits}f} {where}"
    return text.replace("-", "−")


def _pc(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def _three(value: float) -> str:
    """A number with three digits, or rounded to a whole one from 1000 on."""
    return (f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}").replace("-", "−")


RULES: tuple[Callable[[Run], Finding], ...] = (
    _held_out,
    _covariance,
    _eff_rate,
    _entropy,
    _truncation,
    _length,
    _training_accuracy,
    _ib_score,
    _last_fourth(
        "ibtpo/root_branches", "Branches at the root", "branches", over=0.8, percent=True,
        title="Nearly every branch starts at the root: the tree is a star.", fine="Branches start inside the answers.",
    ),
    _last_fourth(
        "ibtpo/distinct", "Distinct answers", "distinct", under=0.7, percent=True,
        title="Answers repeat word for word.", fine="Answers of a group are mostly distinct.",
    ),
    _last_fourth(
        "ibtpo/steps", "Steps an answer", "length", under=3.0,
        title="Answers have fewer than three steps: there is nowhere to branch.",
        fine="Answers have steps to branch at.",
    ),
    _verifier,
    _gap,
    _other_time,
)  # fmt: skip
