"""The exactly solvable world: exact against brute force, estimators against theory, and the library's own search."""

import asyncio
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "exact_world"))

import arms
import bias
import calibrate
import learning
import report
import summarise
import trees
import world

from ibtpo.engines import Sampling
from ibtpo.search import Prompt, SearchOptions, TreeSearch
from ibtpo.verify import Verdict

STORED = Path(__file__).parents[2] / "experiments" / "results" / "exact-world"
TREE = world.Shape(depth=3, width=4096, features=4)
MERGED = world.Shape(depth=4, width=4, features=4)


def make(shape: world.Shape, success: float = 0.3, seed: int = 0) -> tuple[world.Problem, np.ndarray]:
    rng = np.random.default_rng(seed)
    theta, w = world.directions(rng, shape, 1.2)
    theta += 0.1 * rng.standard_normal(theta.shape)  # blocks that differ
    return world.make_problem(rng, shape, theta, w, success, "p"), theta


def reward(problem: world.Problem, actions: list[int]) -> float:
    return float(problem.reward[problem.follow(actions[:-1]) - problem.layers[-2], actions[-1]])


def answers(problem: world.Problem, probs: np.ndarray) -> list[tuple[list[int], float, float]]:
    """Every answer with its probability and reward."""
    found = []
    for actions in map(list, itertools.product(range(4), repeat=problem.depth)):
        states = [problem.follow(actions[:d]) for d in range(problem.depth)]
        chance = math.prod(float(probs[s, a]) for s, a in zip(states, actions, strict=True))
        found.append((actions, chance, reward(problem, actions)))
    return found


@pytest.mark.parametrize("shape", [TREE, MERGED])
def test_exact_values_are_those_of_all_answers(shape: world.Shape) -> None:
    problem, theta = make(shape)
    solution = world.solve(problem, theta)
    every = answers(problem, solution.probs)
    assert sum(chance for _, chance, _ in every) == pytest.approx(1)
    assert solution.success == pytest.approx(sum(chance * right for _, chance, right in every), abs=1e-12)
    first = sum(chance * right for actions, chance, right in every if actions[0] == 2) / solution.probs[0, 2]
    assert solution.q[0, 2] == pytest.approx(first, abs=1e-12)
    visits = np.zeros(len(solution.visits))
    for actions, chance, _ in every:
        for d in range(problem.depth):
            visits[problem.follow(actions[:d])] += chance
    np.testing.assert_allclose(solution.visits, visits, atol=1e-12)


@pytest.mark.parametrize("shape", [TREE, MERGED])
def test_exact_gradient_is_that_of_finite_differences(shape: world.Shape) -> None:
    problem, theta = make(shape)
    problem.features = problem.features.astype(float)
    found = world.exact_gradient(problem, world.solve(problem, theta))
    for index in np.ndindex(theta.shape):
        step = np.zeros_like(theta)
        step[index] = 1e-5
        difference = world.solve(problem, theta + step).success - world.solve(problem, theta - step).success
        assert found[index] == pytest.approx(difference / 2e-5, abs=1e-8)


def test_problems_have_the_success_they_were_asked_for() -> None:
    rates = [world.solve(*make(world.Shape(4, 256, 4), 0.25, seed)).success for seed in range(200)]
    assert np.mean(rates) == pytest.approx(0.25, abs=0.005)
    assert world.solve(*make(TREE, 0.0)).success == 0
    assert world.solve(*make(TREE, 1.0)).success == pytest.approx(1)


def grpo_factor(p: float, n: int) -> float:
    """E[gradient of GRPO with n independent answers] over the exact one: Σ over k right ones of their chance times
    the mean advantage of right and wrong answers, as E[∇log π | right] = ∇p/p and E[∇log π | wrong] = −∇p/(1 − p)."""
    total = 0.0
    for k in range(1, n):
        std = math.sqrt(k * (n - k) / n / (n - 1)) + 1e-4
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k) * k * (n - k) / n**2 / std
    return total * (1 / p + 1 / (1 - p))


def test_many_groups_of_independent_grpo_have_the_expected_gradient() -> None:
    problem, theta = make(TREE)
    solution = world.solve(problem, theta)
    exact = world.exact_gradient(problem, solution) / problem.depth  # a loss is a mean over steps
    growth, credit = arms.GROWTHS["independent 8"], arms.CREDITS["grpo"]
    made = []
    for seed in range(2500):
        tree = trees.grow(problem, solution.probs, growth, seed)
        weights = trees.node_weights(tree, credit)[None]
        made.append(trees.gradient(problem, solution.probs, trees.visited(problem, tree), weights)[0])
    mean, error = np.mean(made, axis=0), np.std(made, axis=0) / math.sqrt(len(made))
    expected = grpo_factor(solution.success, 8) * exact
    assert np.abs(mean - expected).max() < 4.5 * error.max()
    assert np.linalg.norm(mean - expected) < 0.15 * np.linalg.norm(expected)


def test_gradients_by_state_and_by_parameters_are_the_same_gradient() -> None:
    problem, theta = make(MERGED)
    probs = world.policy(problem, theta)
    tree = trees.grow(problem, probs, arms.GROWTHS["IBTree"], 3)
    steps, weights = trees.visited(problem, tree), trees.node_weights(tree, arms.CREDITS["ibtpo"])[None]
    states, rows = trees.state_gradient(probs, steps, weights)
    found = np.zeros_like(theta)
    for state, row in zip(states, rows[0], strict=True):
        layer = np.searchsorted(problem.layers, state, side="right") - 1
        found[layer] += row @ problem.features[state]
    np.testing.assert_allclose(trees.gradient(problem, probs, steps, weights)[0], found, atol=1e-6)


@pytest.mark.parametrize("name", ["IBTree", "EPTree", "surprise", "fixed width", "random"])
def test_without_the_local_term_ibtpo_is_grpo_on_the_same_tree(name: str) -> None:
    """A step's value counts once a trajectory through it, and is their mean: the sum is that of their rewards."""
    problem, theta = make(world.Shape(5, 4096, 4), seed=6)
    tree = trees.grow(problem, world.policy(problem, theta), arms.GROWTHS[name], 1)
    theirs = trees.node_weights(tree, arms.CREDITS["grpo"])
    assert np.abs(theirs).max() > 0.01
    np.testing.assert_allclose(trees.node_weights(tree, arms.CREDITS["ibtpo, λ 0"]), theirs, atol=1e-12)


def test_bias_is_none_for_grpo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias, "SHOWN_GROWTHS", ("independent 8",))
    row = bias.measure(*make(world.Shape(2, 16, 4)), trees=1500)[0]
    assert row["cosine"]["grpo"] == pytest.approx(1, abs=0.02)
    assert row["leaves"] == pytest.approx(0, abs=2)


def test_weights_of_all_credits_are_those_of_each() -> None:
    problem, theta = make(world.Shape(5, 4096, 4), seed=4)
    tree = trees.grow(problem, world.policy(problem, theta), arms.GROWTHS["IBTree"], 0)
    each = [trees.node_weights(tree, credit) for credit in arms.CREDITS.values()]
    np.testing.assert_allclose(trees.all_weights(tree, arms.CREDITS.values()), each, rtol=1e-12, atol=1e-15)


class WorldVerifier:
    """The problem's reward of an answer."""

    def __init__(self, problem: world.Problem) -> None:
        self.problem = problem

    def score(self, rows: list[dict[str, Any]]) -> list[Verdict]:
        rewards = [reward(self.problem, row["completion_ids"]) for row in rows]
        return [Verdict(r, (r,)) for r in rewards]


@pytest.mark.parametrize("name", arms.GROWTHS)
def test_trees_are_those_of_tree_search(name: str) -> None:
    problem, theta = make(world.Shape(5, 4096, 4), seed=1)
    probs, growth = world.policy(problem, theta), arms.GROWTHS[name]
    options = SearchOptions(
        budget=growth.budget, sampling=Sampling(1.0, 1.0, 0), score=growth.score, branching=growth.rule,
        splitter="tokens:1", max_completion_length=problem.depth, seed=11, deterministic=True,
    )  # fmt: skip
    search = TreeSearch(trees.WorldEngine(problem, probs), WorldVerifier(problem), lambda ids: "", options)
    theirs = asyncio.run(search.grow(Prompt(problem.id, trees.PROMPT, ""))).to_dict()
    ours = trees.grow(problem, probs, growth, 11).to_dict()
    assert ours["nodes"] == theirs["nodes"]
    assert ours["leaves"] == theirs["leaves"]
    assert ours["meta"]["rollouts"] == theirs["meta"]["rollouts"]


def test_operating_points_are_fitted_and_reached() -> None:
    for mean, mixed in ((0.2, 0.55), (0.5, 0.55), (0.03, 0.2)):
        a, b = calibrate.beta_parameters(mean, mixed)
        drawn = np.random.default_rng(0).beta(a, b, 200_000)
        assert drawn.mean() == pytest.approx(mean, abs=0.003)
        assert calibrate.mixed_share(drawn) == pytest.approx(mixed, abs=0.005)
    with pytest.raises(ValueError, match=r"success 0\.03 .* 0 to 0\.216, not 0\.5"):
        calibrate.beta_parameters(0.03, 0.5)


def test_seeds_reproduce_and_arms_spend_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    point = calibrate.Point("small", 0.3, 0.5, shape=world.Shape(3, 64, 4))
    monkeypatch.setitem(calibrate.POINTS, "small", point)
    beta = calibrate.beta_parameters(point.success, point.mixed)

    def run(arm: str) -> dict[str, Any]:
        growth, credit = arms.ARMS[arm]
        small = learning.make_world("small", beta, 5, 20, 10)
        return learning.train(small, arms.GROWTHS[growth], arms.CREDITS[credit], 0.04, steps=4)

    first = run("IB-TPO")
    assert first == run("IB-TPO")
    other = run("GRPO")
    assert other["problems"] == 4 * 8
    assert other["tokens"] == 4 * 8 * 8 * 3
    assert first["steps"] == other["steps"]
    assert abs(first["tokens"] - other["tokens"]) < 36  # less than a tree
    assert first["curve"] != other["curve"]


def test_a_rate_at_the_edge_widens_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: learning.Runs, point: str, arm: str, rate: float, worlds: Any, seed: int) -> dict[str, Any]:
        best = {"GRPO": 0.01, "IB-TPO": 0.16}[arm]
        return self.found.setdefault((point, arm, rate, seed), {"curve": [-abs(math.log(rate / best))]})

    monkeypatch.setattr(learning.Runs, "get", run)
    runs = learning.Runs(tmp_path / "learning.jsonl")
    assert learning.choose_rates(runs, "paper", ["GRPO", "IB-TPO"], None) == {"GRPO": 0.01, "IB-TPO": 0.16}
    tried = {(arm, rate) for _, arm, rate, _ in runs.found}
    assert ("GRPO", 0.005) in tried
    assert ("IB-TPO", 0.32) in tried
    assert all(seed >= learning.FIRST_PILOT for *_, seed in runs.found)


def test_stored_runs_of_another_version_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"point": "paper", "arm": arm, "rate": 0.08, "seed": seed, "curve": [0.3, curve]}
        for arm, curve in (("GRPO", 0.5), ("IB-TPO", 0.6))
        for seed in range(3)
    ]
    (tmp_path / "learning.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(learning, "make_world", lambda *_: learning.World(np.zeros(1), [], [], 0))
    monkeypatch.setattr(learning, "success", lambda *_: 0.2)
    monkeypatch.setattr(learning, "train", lambda *_: {"curve": [0.3, 0.5]})
    found = learning.outdated(learning.Runs(tmp_path / "learning.jsonl"), {"paper": (1.0, 1.0)})
    assert found == [f"paper, IB-TPO, rate 0.08, seed {seed}" for seed in (0, 2)]


def test_t_interval() -> None:
    assert summarise.t_quantile(4) == pytest.approx(2.7764, abs=1e-3)
    assert summarise.t_quantile(49) == pytest.approx(2.0096, abs=1e-3)
    mean, low, high = summarise.t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, low, high) == pytest.approx((3, 3 - 2.7764 * math.sqrt(0.5), 3 + 2.7764 * math.sqrt(0.5)), abs=1e-3)


def test_arms_that_differ_in_one_choice_are_compared_at_their_own_rates(tmp_path: Path) -> None:
    pilots = [
        {"point": "paper", "arm": arm, "rate": rate, "seed": learning.FIRST_PILOT + i, "curve": [0, 1 / (1 + rate)]}
        for arm, best in (("IB-TPO", 0.04), ("IB-TPO, branching β 1", 0.08))
        for rate in (best, 2 * best)
        for i in range(learning.PILOTS)
    ]
    ends = {("IB-TPO", 0.04): (0.5, 0.6, 0.7), ("IB-TPO", 0.08): (0.9, 0.9, 0.9),
            ("IB-TPO, branching β 1", 0.08): (0.51, 0.62, 0.73, 0.99)}  # fmt: skip
    reported = [
        {"point": "paper", "arm": arm, "rate": rate, "seed": seed, "curve": [0, end]}
        for (arm, rate), values in ends.items()
        for seed, end in enumerate(values)
    ]
    (tmp_path / "learning.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pilots + reported))
    [row] = summarise.learned_choice_rows(learning.Runs(tmp_path / "learning.jsonl"), "paper")
    assert row["choice"] == "branching β 1 in place of 5"
    assert row["seeds"] == 3
    assert row["difference"] == pytest.approx(summarise.t_interval([1.0, 2.0, 3.0]))


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text((STORED / "calibration.json").read_text())
    report.write(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.count("Not measured yet.") == 2
    assert "| the paper's | 20 / 55 | 21.2 / 55.1 | 0.56 | 1.03 | 0 | 0 |" in text


def test_stored_differences_are_those_of_the_stored_runs() -> None:
    stored = json.loads((STORED / "summary.json").read_text())["points"]["paper"]["learning"]
    rows = {row["arm"]: row for row in summarise.learning_rows(learning.Runs(STORED / "learning.jsonl"), "paper")}
    assert len(stored) >= 7
    for row in stored:
        assert row["seeds"] >= 50
        assert rows[row["arm"]]["difference"] == pytest.approx(row["difference"], rel=1e-4, abs=1e-4)
        tried = sorted(map(float, row["grid"]))
        assert tried[0] < row["rate"] < tried[-1]
        assert row["steps"] == learning.STEPS
