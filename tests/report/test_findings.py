"""The verdict on curves whose answer is known: what must be seen, and what must not be seen in noise."""

import math
import re

import numpy as np
import pytest

from helpers.report_runs import make_run, result, rows
from ibtpo.report.findings import RULES, difference, headline, judge_run
from ibtpo.report.trend import ALPHA, find_trend, running_mean, since, trend
from ibtpo.storage.read_run import read_run

N = 60


def findings(tmp_path, evals=None, config=None, n=N, **curves):
    run = read_run(make_run(tmp_path / "run", rows(n, **curves), evals=evals, trees={}, config=config))
    return judge_run(run)


def finding(plot, found):
    """The most pressing finding about a plot."""
    return next(f for f in found if f.plot == plot)


def ramp(first, last, noise, seed=1, n=N):
    return np.linspace(first, last, n) + noise * np.random.default_rng(seed).standard_normal(n)


def test_mann_kendall_and_the_level_of_a_fourth_by_hand():
    # 0..11 without noise: S = 66 of 66 pairs, variance 12·11·29/18, z = 65/√212.67; r = 0 leaves it as it is.
    t = trend(np.arange(1, 13), np.arange(12.0))
    assert t.p == pytest.approx(math.erfc(65 / math.sqrt(12 * 11 * 29 / 18) / math.sqrt(2)))
    assert (t.rising, t.n) == (True, 12)
    assert (t.first.mean, t.last.mean, t.change) == (1.0, 10.0, 9.0)
    assert (t.first.begin, t.first.end, t.last.begin, t.last.end) == (1, 3, 10, 12)
    # Too few values for a fourth to tell its own spread: pooled variance 1 (of 0 1 2, 3 4 5, …: Σ 8 over 12 − 4).
    assert t.first.error == pytest.approx(math.sqrt(1.0 / 3))


def test_eleven_values_are_too_few_and_gaps_do_not_count():
    assert trend(np.arange(11), np.arange(11.0)) is None
    assert trend(np.arange(20), np.r_[np.arange(11.0), np.full(9, math.nan)]) is None


def test_a_constant_curve_has_no_trend():
    t = trend(np.arange(50), np.full(50, 0.3))
    assert (t.p, t.change, t.last.error) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("n", "rho", "most"), [(12, 0.0, 0.02), (42, 0.3, 0.035), (300, 0.6, 0.03)])
def test_noise_alone_is_rarely_taken_for_a_trend(n, rho, most):
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(400):
        noise = rng.standard_normal(n)
        for i in range(1, n):
            noise[i] += rho * noise[i - 1]
        hits += find_trend(np.arange(n), noise, lambda t: True) is not None
    assert hits / 400 <= most


def test_a_trend_of_the_second_half_alone_is_found():
    values = np.r_[ramp(0.2, 0.5, 0.02, n=30), ramp(0.5, 0.2, 0.02, n=30)]
    t = find_trend(np.arange(60), values, lambda t: t.change < -0.1)
    assert t is not None
    assert t.p < ALPHA
    assert (t.first.begin, t.last.end) == (30, 59)


def test_since_is_the_step_from_which_the_running_mean_stays():
    steps, values = np.arange(1, 41), np.r_[np.ones(20), np.zeros(20)]
    assert since(steps, values, lambda v: v < 0.5) == 21
    assert since(steps, values, lambda v: v > 0.5) is None
    assert running_mean(np.array([1.0, math.nan, 3.0]), 3).tolist() == [1.0, 2.0, 3.0]


def test_a_run_in_which_nothing_happens_is_given_no_problem(tmp_path):
    found = findings(tmp_path)
    assert {f.state for f in found} <= {"good", "unknown"}
    assert len(found) == len(RULES)
    assert headline(found) == "Held-out accuracy rose by 20.0 points. No rule found a problem."


def test_covariance_that_falls_to_zero_while_entropy_stays_is_named_with_its_step(tmp_path):
    rng = np.random.default_rng(2)
    cov = np.r_[np.full(30, 0.02), np.zeros(30)] + 0.004 * rng.standard_normal(60)
    f = finding("cov", findings(tmp_path, cov_eta=cov))
    assert f.state == "bad"
    assert f.title == "Cov(η1, η2) fell to 0 at step 33 while entropy stayed: confidence no longer follows correctness."
    assert "since step 31" in f.evidence


@pytest.mark.parametrize("seed", range(5))
def test_the_step_at_which_covariance_reached_zero_is_found(tmp_path, seed):
    n, zero = 200, 80
    cov = np.maximum(0, 0.02 * (1 - np.arange(n) / zero)) + 0.004 * np.random.default_rng(seed).standard_normal(n)
    title = finding("cov", findings(tmp_path, cov_eta=cov, n=n)).title
    assert abs(int(re.search(r"fell to 0 at step (\d+)", title)[1]) - zero) <= 15


def test_covariance_and_entropy_that_fall_together_are_told_apart_from_it(tmp_path):
    cov = np.r_[np.full(30, 0.02), np.zeros(30)] + 0.002 * np.random.default_rng(2).standard_normal(60)
    f = finding("cov", findings(tmp_path, cov_eta=cov, entropy=ramp(0.4, 0.1, 0.01)))
    assert "as entropy fell" in f.title


@pytest.mark.parametrize("seed", range(5))
def test_covariance_lost_in_noise_is_not_called_a_collapse(tmp_path, seed):
    f = finding("cov", findings(tmp_path, cov_eta=ramp(0.001, -0.001, 0.02, seed)))
    assert f.state == "unknown"
    assert "cannot be told from 0" in f.title


def test_covariance_that_only_halves_is_not_called_a_collapse(tmp_path):
    f = finding("cov", findings(tmp_path, cov_eta=ramp(0.02, 0.01, 0.002)))
    assert (f.state, "above 0 to the end" in f.title) == ("good", True)


def test_negative_covariance_is_a_problem(tmp_path):
    f = finding("cov", findings(tmp_path, cov_eta=ramp(-0.01, -0.01, 0.002)))
    assert (f.state, "negative" in f.title) == ("bad", True)


CASES = [
    # plot, curve, values, state, words
    ("signal", "eff_rate", ramp(0.8, 0.1, 0.05), "bad", "starving"),
    ("signal", "eff_rate", ramp(0.8, 0.45, 0.05), "look", "falling"),
    ("signal", "eff_rate", ramp(0.8, 0.7, 0.05), "good", "not fall"),
    ("signal", "eff_rate", ramp(0.25, 0.25, 0.1), "good", "not fall"),  # at the threshold: not beyond it
    ("entropy", "entropy", ramp(0.4, 0.05, 0.02), "bad", "collapsed"),
    ("entropy", "entropy", ramp(0.4, 0.25, 0.02), "look", "falling"),
    ("entropy", "entropy", ramp(0.4, 0.37, 0.02), "good", "neither"),
    ("entropy", "entropy", ramp(0.4, 0.8, 0.02), "look", "grew"),
    ("truncated", "truncated", ramp(0.0, 0.4, 0.02), "bad", "grew"),
    ("truncated", "truncated", ramp(0.0, 0.08, 0.01), "look", "grew"),
    ("truncated", "truncated", ramp(0.3, 0.3, 0.02), "look", "from the start"),
    ("truncated", "truncated", ramp(0.1, 0.1, 0.05), "good", "Few"),
    ("length", "length", ramp(80, 110, 4), "look", "grew longer"),
    ("length", "length", ramp(80, 50, 4), "look", "shorter"),
    ("length", "length", ramp(80, 90, 4), "good", "keep"),
    ("ib-score", "ib_score", ramp(-0.5, -0.8, 0.05), "look", "falling"),
    ("ib-score", "ib_score", ramp(-0.5, -0.3, 0.05), "good", "not fall"),
    ("branches", "root_branches", ramp(0.95, 0.95, 0.02), "look", "star"),
    ("branches", "root_branches", ramp(0.8, 0.8, 0.1), "good", "inside"),
    ("distinct", "distinct", ramp(0.5, 0.5, 0.02), "look", "word for word"),
    ("accuracy-tokens", "avg_rate", ramp(0.2, 0.4, 0.05), "good", "rose"),
    ("accuracy-tokens", "avg_rate", ramp(0.4, 0.2, 0.05), "bad", "fell"),
    ("accuracy-tokens", "avg_rate", ramp(0.3, 0.31, 0.1), "unknown", "no clear trend"),
]


@pytest.mark.parametrize(("plot", "name", "values", "state", "words"), CASES)
def test_a_rule_on_a_curve_of_known_answer(tmp_path, plot, name, values, state, words):
    f = finding(plot, findings(tmp_path, **{name: values}))
    assert (f.state, words in f.title) == (state, True), f


def test_ib_score_may_fall_where_confidence_grows_with_its_covariance(tmp_path):
    falls = ramp(-0.5, -0.8, 0.05)
    f = finding("ib-score", findings(tmp_path / "a", ib_score=falls, cov_eta=ramp(0.008, 0.02, 0.002)))
    assert (f.state, "confidence follows information" in f.title) == ("good", True)
    assert f.evidence.count("trend p < 0.0001") == 2
    f = finding("ib-score", findings(tmp_path / "b", ib_score=falls, cov_eta=ramp(-0.03, -0.01, 0.002)))  # not above 0
    assert (f.state, "without information" in f.title) == ("look", True)


def test_accuracy_in_training_names_the_policys_own_rate_beside_that_of_the_leaves(tmp_path):
    leaves = ramp(0.2, 0.4, 0.05)
    assert "first answers" not in finding("accuracy-tokens", findings(tmp_path / "a", avg_rate=leaves)).evidence
    own = np.where(np.arange(len(leaves)) < len(leaves) / 2, 0.1, 0.3)
    f = finding("accuracy-tokens", findings(tmp_path / "b", avg_rate=leaves, policy_rate=own))
    assert f.evidence.endswith(" That of the first answers went from 10.0 % to 30.0 %.")


@pytest.mark.parametrize(("name", "plot"), [("eff_rate", "signal"), ("entropy", "entropy"), ("truncated", "truncated")])
def test_eleven_steps_are_too_short_a_run_to_say(tmp_path, name, plot):
    found = findings(tmp_path, n=11, **{name: np.linspace(1, 0, 11)})
    f = finding(plot, found)
    assert (f.state, "too short a run" in f.title) == ("unknown", True)
    assert "11 of the 12 steps" in f.evidence
    assert "The run is too short to speak of trends." in headline(found)


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (result(0.2), result(0.4), "good"),
        (result(0.4), result(0.2), "bad"),
        (result(0.30), result(0.35), "look"),  # 5 points; the interval is ± 4·√2 = 5.66
        (result(0.30), result(0.3567), "good"),  # just beyond
        (result(0.30), result(0.3563), "look"),  # just within
    ],
)
def test_held_out_accuracy_moves_only_beyond_the_interval_of_the_difference(tmp_path, before, after, state):
    assert finding("held-out", findings(tmp_path, evals={"before": before, "after": after})).state == state


def test_the_interval_of_a_difference_adds_variances():
    change, low, high = difference(result(0.3, 0.03), result(0.4, 0.04), "avg")
    assert (change, low, high) == pytest.approx((0.1, 0.05, 0.15))
    assert difference({**result(0.3), "avg": None, "avg_ci": None}, result(0.3), "avg") is None


def test_without_held_out_problems_nothing_is_said_of_them(tmp_path):
    found = findings(tmp_path, evals={"before": result(0.2)})
    assert finding("held-out", found).state == "unknown"
    assert headline(found).startswith("Held-out accuracy: nothing to say.")


def test_verifier_errors_are_counted_over_all_steps(tmp_path):
    errors = np.zeros(N)
    errors[6] = 50  # of 60·96 = 5760 answers: 0.9 %
    f = finding("verifier", findings(tmp_path / "a", verifier_errors=errors))
    assert (f.state, f.evidence.startswith("50 of 5760 answers (0.9 %). The first at step 7.")) == ("look", True)
    errors[7] = 10
    assert finding("verifier", findings(tmp_path / "b", verifier_errors=errors)).state == "bad"


def test_the_log_prob_gap_is_judged_in_float32_only(tmp_path):
    gap = np.full(N, 1e-5)
    gap[[3, 9]] = 2e-3
    f = finding("gap", findings(tmp_path / "a", **{"sampling/logp_gap_max": gap}))
    assert (f.state, "at step 4. Above 0.001 in 2 of 60 steps" in f.evidence) == ("bad", True)
    f = finding("gap", findings(tmp_path / "b", config={"dtype": "bfloat16"}, **{"sampling/logp_gap_max": gap}))
    assert f.state == "unknown"


@pytest.mark.parametrize(("other", "state"), [(0.49, "good"), (0.51, "look")])
def test_time_spent_on_neither_sampling_nor_learning(tmp_path, other, state):
    f = finding("time", findings(tmp_path, **{"time/other": np.full(N, other)}))
    assert (f.state, f.evidence.startswith(f"{100 * other / 5:.1f} % of 300 s")) == (state, True)
