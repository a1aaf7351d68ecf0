"""The training comparison: arms, plan, statistics on tables whose answer is known, the command with made-up runs."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ibtpo.compare.training_arms import COMPONENTS, PRESETS, expand, folder_name, parse
from ibtpo.compare.training_choices import choose_rate, nearest_questions, tried_rates
from ibtpo.compare.training_jobs import Job, run_all
from ibtpo.compare.training_plan import Plan, go_on, split_problems
from ibtpo.errors import ConfigError, DataError
from ibtpo.evaluation.statistics import accuracy, crossed_interval, difference, grade_table, t_quantile
from ibtpo.storage.run_folder import RunFolder
from ibtpo.tasks.problems import Problem
from ibtpo.training.methods import METHODS

# --- jobs


def test_a_job_finds_the_modules_of_the_process_that_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mytask.py").write_text("WORD = 'found'\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = "import mytask, sys; open(sys.argv[-2] + '.txt', 'w').write(mytask.WORD)"
    monkeypatch.setattr("ibtpo.compare.training_jobs.COMMAND", (sys.executable, "-P", "-c", code))
    monkeypatch.setattr("ibtpo.compare.training_jobs.POLL", 0.02)
    job = Job("a", tmp_path / "runs" / "a", ())
    assert run_all([job], 1, tmp_path / "runs" / "logs", lambda *_: None) == [job]  # it trained nothing
    assert (tmp_path / "runs" / "a.txt").read_text() == "found"


# --- arms


def test_an_arm_is_a_method_and_options() -> None:
    assert parse("grpo") == {"method": "grpo"}
    assert parse("ibtpo,lam=0.5") == {"method": "ibtpo", "lam": 0.5}
    assert parse("grpo,advantage=ibtpo,ib-beta=1") == {"method": "grpo", "advantage": "ibtpo", "ib_beta": 1}
    assert parse("ibtpo,splitter=noisy:0.1") == {"method": "ibtpo", "splitter": "noisy:0.1"}
    assert parse("ibtpo,tree=4,5,2,1,lam=0") == {"method": "ibtpo", "tree": "4,5,2,1", "lam": 0}


def test_lists_of_arms_are_spelt_out_and_each_arm_stands_once() -> None:
    assert expand(["methods"]) == list(PRESETS["methods"])
    assert set(PRESETS["methods"]) == set(METHODS)
    assert len(METHODS) == 7
    assert expand(["ibtpo", "components", "grpo"]) == ["ibtpo", *[arm for arm in COMPONENTS if arm != "ibtpo"]]
    assert folder_name("ibtpo,splitter=noisy:0.1") == "ibtpo-splitter-noisy-0.1"
    assert len({folder_name(arm) for arm in COMPONENTS}) == len(COMPONENTS) == 13


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["ibpo"], "unknown arm 'ibpo'; did you mean 'ibtpo'"),
        (["component"], "did you mean 'components'"),
        (["ibtpo,lam"], "'lam' is no KEY=VALUE"),
        (["ibtpo,seed=3"], "seed is set by the comparison; give --seeds"),
        (["ibtpo,temperature=0.5"], "temperature must be the same in all arms; give --set temperature="),
        (["ibtpo,splitter=tokens:3", "ibtpo,splitter=tokens-3"], "would share the folder ibtpo-splitter-tokens-3"),
    ],
)
def test_wrong_arms_say_what_is_wrong(arms: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(arms)


# --- plan


def plan(**changes: Any) -> Plan:
    shared = {"learning_rates": [1e-4, 2e-4], "pilot_seeds": [1000, 1001], "pilot_tokens": 50, "validation": 7}
    return Plan(Path("out"), {**shared, **changes}, ("grpo", "ibtpo"), (0, 1), {})


def test_pilots_cover_the_grid_and_runs_go_seed_by_seed() -> None:
    pilots = plan().pilots()
    assert [str(job.folder) for job in pilots[:4]] == [
        f"out/pilots/{arm}/lr{rate}/seed1000" for arm in ("grpo", "ibtpo") for rate in ("0.0001", "0.0002")
    ]
    assert len(pilots) == 8
    options = dict(zip(pilots[0].words[1::2], pilots[0].words[2::2], strict=True))
    assert options["--max_generated_tokens"] == "50"
    assert options["--eval_data"] == "out/data/validation.jsonl"
    finals = plan().finals({"grpo": 2e-4, "ibtpo": 1e-4})
    assert [job.name for job in finals] == ["grpo, seed 0", "ibtpo, seed 0", "grpo, seed 1", "ibtpo, seed 1"]
    assert finals[0].words == ("out/arms/grpo.yaml", "--learning_rate", "0.0002", "--seed", "0")
    assert plan(learning_rates=[3e-4]).pilots() == []


def test_arms_with_changes_may_take_the_rate_of_their_method(tmp_path: Path) -> None:
    arms = ("grpo", "ibtpo", "ibtpo,lam=0", "treepo,lam=0")
    shared = {"learning_rates": [1e-4, 2e-4, 4e-4], "pilot_seeds": [7], "pilot_tokens": 10, "validation": 4}
    plan = Plan(tmp_path, {**shared, "rates_by_method": True}, arms, (0,), {})
    names = [job.name for job in plan.pilots()]
    tried = ("grpo", "ibtpo", "treepo,lam=0")  # treepo itself is no arm
    assert names == [f"pilot of {arm} at {rate:g}, seed 7" for arm in tried for rate in shared["learning_rates"]]
    for arm, best in (("grpo", 1e-4), ("ibtpo", 2e-4)):
        for rate in shared["learning_rates"]:
            folder = plan.pilot(arm, rate, 7).folder
            folder.mkdir(parents=True)
            (folder / "eval.json").write_text(json.dumps({"after": {"avg": 0.5 if rate == best else 0.1}}))
    chosen = {arm: choice["learning_rate"] for arm, choice in plan.choices().items()}
    assert chosen == {"grpo": 1e-4, "ibtpo": 2e-4, "ibtpo,lam=0": 2e-4}
    assert len(Plan(tmp_path, shared, arms, (0,), {}).pilots()) == 12


def test_the_rate_of_the_best_mean_is_chosen() -> None:
    found = choose_rate({1e-4: [0.2, 0.3], 2e-4: [0.1, 0.5], 4e-4: [0.4, 0.1]})
    assert (found["learning_rate"], found["at_edge"]) == (2e-4, False)
    assert found["validation"] == {"0.0001": [0.2, 0.3], "0.0002": [0.1, 0.5], "0.0004": [0.4, 0.1]}
    assert choose_rate({4e-4: [0.3], 2e-4: [0.3], 1e-4: [0.2]})["learning_rate"] == 2e-4  # of equals the smaller
    assert choose_rate({1e-4: [0.1], 2e-4: [math.nan]})["learning_rate"] == 1e-4
    assert choose_rate({1e-4: [0.1], 2e-4: [0.2], 4e-4: [0.3]})["at_edge"]


def test_a_grid_grows_until_its_best_rate_is_inside() -> None:
    def tried(grid: list[float], best: float, known: float = 1.0) -> list[float]:
        """The rates that are tried if accuracy falls with the distance to `best`, known up to `known`."""
        return list(tried_rates(grid, lambda rate: [-abs(math.log(rate / best)) if rate <= known else None], 3))

    assert tried([1e-4, 2e-4, 4e-4], 2e-4) == [1e-4, 2e-4, 4e-4]
    assert tried([1e-4, 2e-4, 4e-4], 1e-4) == [5e-5, 1e-4, 2e-4, 4e-4]
    assert tried([1e-4, 2e-4, 4e-4], 8e-4) == [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3]
    assert tried([1e-4, 2e-4, 4e-4], 8e-4, known=4e-4) == [1e-4, 2e-4, 4e-4, 8e-4]  # the last one is to be tried now
    assert tried([1e-4, 4e-4], 1.0) == [1e-4, 4e-4, 1.6e-3, 6.4e-3, 2.56e-2]  # no more than three times
    assert tried([1e-4, 2e-4], 1e-9) == [1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4]


def test_questions_a_step_are_the_nearest_that_the_batch_takes() -> None:
    pytest.importorskip("trl")
    settings = {"num_generations": 12, "prompts_per_step": 8}
    assert [nearest_questions(settings, wanted, 100) for wanted in (6.4, 5.4, 0.2, 11.0)] == [6, 5, 1, 11]
    assert nearest_questions(settings, 6.4, 4) == 4  # no more than there are
    assert nearest_questions({**settings, "rows_per_forward": 24}, 6.9, 100) == 6  # 72 answers are three passes
    assert nearest_questions({**settings, "rows_per_forward": 48}, 6.4, 100) == 8


def test_arms_that_match_the_steps_of_another_are_sized() -> None:
    assert plan().sizings() == []
    sized = plan(match_steps="grpo")
    assert [str(job.folder) for job in sized.sizings()] == ["out/sizes/grpo", "out/sizes/ibtpo"]
    words = sized.sizings()[1].words
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert (options["--max_steps"], options["--max_generated_tokens"], options["--learning_rate"]) == (
        "4", "null", "0.0001"
    )  # fmt: skip
    own = Plan(Path("out"), {**plan().shared, "match_steps": "grpo"}, ("grpo", "ibtpo,prompts_per_step=3"), (0,), {})
    assert own.sizings() == []  # nothing to match


def test_a_comparison_of_an_earlier_version_is_read_but_not_gone_on_with() -> None:
    old, new = plan(), plan(match_steps="ibtpo", widenings=3)
    assert (old.measure, len(old.pilots())) == (None, 8)
    with pytest.raises(ConfigError, match="in out was begun by an earlier version, which had no match_steps"):
        go_on(old, new)
    assert go_on(plan(match_steps="grpo"), plan(match_steps="ibtpo")).measure == "grpo"


def problems(*texts: str) -> list[Problem]:
    return [Problem(f"{i}", text, "-", {}) for i, text in enumerate(texts)]


def test_no_question_is_in_two_lists_of_problems() -> None:
    train, chosen = split_problems(problems(*"abcdefcd"), problems(*"fx"), 3)
    assert [p.prompt for p in chosen] == ["e", "c", "d"]  # the last three that are not held out
    assert [p.prompt for p in train] == ["a", "b"]  # c and d are validation problems, f is held out
    with pytest.raises(DataError, match="--validation 7: only 5 training problems"):
        split_problems(problems(*"abcde"), problems("x"), 7)


# --- statistics


def test_quantiles_of_students_t_are_those_of_the_tables() -> None:
    found = [t_quantile(n) for n in (1, 2, 4, 11, 199)]
    assert found == pytest.approx([12.7062, 4.30265, 2.77645, 2.20099, 1.97196], rel=1e-5)
    assert t_quantile(2, 0.9) == pytest.approx(2.91999, rel=1e-5)


def test_means_and_intervals_of_tables_with_known_answers() -> None:
    constant = np.full((3, 4), 0.25)
    assert accuracy(constant) == {"acc": 0.25, "ci": [0.25, 0.25]}
    # Only problems differ: the t interval of the problems, whatever the seeds. Their variance is 1/2.
    half = t_quantile(1) * math.sqrt(0.5 / 2)
    assert accuracy(np.tile([0.0, 1.0], (5, 1)))["ci"] == pytest.approx([0.5 - half, 0.5 + half])
    # Only seeds differ: the t interval of the seeds, 0.1 to 0.3, however many problems there are.
    half = t_quantile(2) * 0.1 / math.sqrt(3)
    assert accuracy(np.tile([[0.1], [0.2], [0.3]], (1, 50)))["ci"] == pytest.approx([0.2 - half, 0.2 + half])
    assert all(map(math.isnan, crossed_interval(np.array([[0.5]]))))


def test_the_interval_holds_both_sources_of_variance() -> None:
    # By hand: row means 2 and 4 have the variance 2; column means 1, 3 and 5 have 4; nothing is left over.
    table = np.array([[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]])
    half = math.sqrt(t_quantile(1) ** 2 * 2 / 2 + t_quantile(2) ** 2 * 4 / 3)
    assert crossed_interval(table) == pytest.approx((3 - half, 3 + half))
    # Noise alone: columns differ by no more than it explains, so the interval is that of the seeds.
    noise = np.array([[1.0, -1.0], [-1.0, 1.0], [0.5, 0.1]])
    half = t_quantile(2) * math.sqrt(0.03 / 3)  # row means 0, 0 and 0.3
    assert crossed_interval(noise) == pytest.approx((0.1 - half, 0.1 + half))
    # For ten differences together each is held with 99.5 %: t of two degrees is 14.089, not 4.303.
    wide = 14.089 * math.sqrt(0.03 / 3)
    assert difference(noise, 0 * noise, level=1 - 0.05 / 10)["ci"] == pytest.approx([0.1 - wide, 0.1 + wide], rel=1e-3)


@pytest.mark.parametrize(("seeds", "of_seeds", "of_problems"), [
    (3, 0.05, 0.0), (3, 0.05, 0.3), (3, 0.0, 0.3), (5, 0.05, 0.3), (12, 0.05, 0.3), (1, 0.0, 0.3)
])  # fmt: skip
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, of_seeds: float, of_problems: float) -> None:
    rng = np.random.default_rng(3)
    draws, P = 1000, 60
    hits = 0
    for _ in range(draws):
        table = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0.4, of_problems, P) + rng.normal(0, 0.2, (seeds, P))
        low, high = crossed_interval(table)
        hits += low <= 0.4 <= high
    assert hits / draws >= 0.93


def test_paired_differences_find_a_known_gain_under_shared_noise() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 0.05, (5, 1)) + rng.normal(0.4, 0.3, (1, 100))
    theirs = shared + rng.normal(0, 0.02, (5, 100))
    mine = shared + 0.03 + rng.normal(0, 0.02, (5, 100))
    found = difference(mine, theirs)
    assert found["diff"] == pytest.approx(0.03, abs=0.004)
    assert found["ci"][0] > 0.02
    unpaired = math.hypot(*(np.diff(accuracy(t)["ci"])[0] for t in (mine, theirs)))
    assert np.diff(found["ci"])[0] < 0.1 * unpaired
    assert difference(theirs, mine)["diff"] == pytest.approx(-found["diff"])


def test_grades_that_are_not_known_are_left_out() -> None:
    values = grade_table([{"a": 1.0, "b": None}, {"a": 0.0, "b": 0.5}], ["a", "b", "c"])
    np.testing.assert_array_equal(values, [[1, np.nan, np.nan], [0, 0.5, np.nan]])
    assert accuracy(values)["acc"] == 0.5
    assert crossed_interval(values) == pytest.approx(crossed_interval(values[:, :2]))  # c is no problem of the table


# --- the command, with runs made up by a stand-in for `ibtpo train`

FAKE = """
import json, sys, time
from pathlib import Path
import yaml
GAIN = {"grpo": 0.1, "ibtpo": 0.2}
words = sys.argv[2:]
if words[0] == "--resume":
    folder = Path(words[1])
    options = json.loads((folder / "words.json").read_text())
else:
    recipe = yaml.safe_load(Path(words[0]).read_text())
    options = {**recipe, **dict(zip([w[2:] for w in words[1:-1:2]], words[2:-1:2]))}
    folder = Path(options["output"])
    folder.mkdir(parents=True)
    (folder / "words.json").write_text(json.dumps(options))
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "model").mkdir()
    (folder / "checkpoints").mkdir()
with open("started.txt", "a") as f:
    f.write(f"{folder} {words[0]}\\n")
while Path("STOP").exists():
    time.sleep(0.02)
rate, seed = float(options["learning_rate"]), int(options["seed"])
if options["max_generated_tokens"] == "null":
    tokens = int(options["max_steps"]) * options["prompts_per_step"] * {"grpo": 80, "ibtpo": 100}[options["method"]]
else:
    tokens = int(options["max_generated_tokens"])
if options.get("lam") == 9:
    sys.exit("out of memory")
best = {"grpo": 2e-4, "ibtpo": 1e-4}[options["method"]]
problems = [json.loads(line)["id"] for line in open(options["eval_data"])]
def row(step, gain):
    grades = {p: min(1.0, gain + 0.01 * (seed % 1000) + 0.5 * (i % 2)) for i, p in enumerate(problems)}
    avg = sum(grades.values()) / len(grades)
    result = {"avg": avg, "avg_ci": [avg, avg], "pass": avg, "pass_ci": [avg, avg], "k": 4, "n": len(grades)}
    return {"step": step, "generated_tokens": step * tokens // 4, "seconds": 2.0 * step, **result, "truncated": 0.0,
            "grades": grades}
gain = GAIN[options["method"]] - abs(rate - best) * 100
rows = [row(0, 0.0), row(2, gain / 2), row(4, gain)]
(folder / "evals.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
(folder / "metrics.jsonl").write_text("".join(json.dumps({
    "step": s, "loss": 0.0, "ibtpo/generated_tokens": tokens / 4, "ibtpo/generated_tokens_total": s * tokens / 4,
    "ibtpo/trajectories": 30 + s, "ibtpo/eff_rate": 0.1 * s, "ibtpo/entropy": 1.0, "kl": 0.01 * s,
    "ibtpo/ib_score": -0.5, "ibtpo/cov_eta": 0.01, "time/total": 2.0}) + "\\n" for s in (1, 2, 3, 4)))
(folder / "eval.json").write_text(json.dumps({"before": rows[0], "after": rows[-1]}))
"""

Compare = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.py").write_text(FAKE)
    for name, letters in (("train", "abcdefghij"), ("test", "jklmn")):
        rows = [{"id": f"{name}-{c}", "question": c, "answer": "1"} for c in letters]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"model": "nano", "data": "train.jsonl", "eval_data": "test.jsonl", "prompts_per_step": 5, "threads": 2,
              "num_train_epochs": 1}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr("ibtpo.compare.training_jobs.COMMAND", (sys.executable, "fake.py"))
    monkeypatch.setattr("ibtpo.compare.training_jobs.POLL", 0.02)
    return tmp_path


ARGS = (
    "compare",
    "training",
    "recipe.yaml",
    "--output",
    "out",
    "--tokens",
    4000,
    "--validation",
    3,
    "--evaluations",
    2,
)
FEW = (*ARGS, "--learning-rates", "1e-4", "2e-4", "--seeds", 0, 1)


def test_the_command_chooses_rates_runs_seed_by_seed_and_sums_up(call: Compare, place: Path) -> None:
    code, out, err = call(*FEW, "--arms", "grpo", "ibtpo", "--json", "--jobs", 2)
    assert code == 0, err
    summary = json.loads(out)
    assert summary["tokens"] == 4000
    assert {a: s["learning_rate"] for a, s in summary["arms"].items()} == {"grpo": 2e-4, "ibtpo": 1e-4}
    # Five held-out problems, two of them easier by half; seed 1 is better by a point in both arms.
    base = 0.5 * 2 / 5
    ibtpo, grpo = summary["arms"]["ibtpo"], summary["arms"]["grpo"]
    assert ibtpo["seeds"] == pytest.approx([base + 0.2, base + 0.21])
    assert ibtpo["acc"] == pytest.approx(base + 0.205)
    assert grpo["acc"] == pytest.approx(base + 0.105)
    assert summary["before"]["acc"] == pytest.approx(base + 0.005)
    low, high = ibtpo["ci"]
    assert high - low > 0.2  # of five problems
    paired = summary["paired"]["ibtpo-grpo"]
    assert [paired["diff"], *paired["ci"]] == pytest.approx([0.1] * 3)  # the same for every seed and problem
    rows = {line.split(" | ")[0]: line.split(" | ") for line in Path("out/table.md").read_text().splitlines()}
    assert rows["| arm"][2:4] == ["minus grpo, points", "ibtpo minus it, points"]
    assert rows["| ibtpo"][2:4] == ["+10.0 [+10.0, +10.0]", "–"]
    assert rows["| grpo"][2:4] == ["–", "+10.0 [+10.0, +10.0]"]
    assert ibtpo["steps"] == [4, 4]
    assert ibtpo["trajectories"] == [31 + 32 + 33 + 34] * 2
    assert ibtpo["eff_rate"] == pytest.approx(0.25)
    assert ibtpo["training_seconds"] == [8.0, 8.0]
    assert [(p["generated_tokens"], p["seconds"], p["seeds"]) for p in ibtpo["curve"]] == [
        (0, 0, 2), (2000, 4, 2), (4000, 8, 2)
    ]  # fmt: skip
    assert [p["acc"] for p in ibtpo["curve"]] == pytest.approx([base + 0.005, base + 0.105, base + 0.205])
    stored = json.loads(Path("out/summary.json").read_text())
    assert stored["arms"] == summary["arms"]
    assert stored["plan"]["problems"] == {"train": 6, "validation": 3, "held_out": 5}  # j is held out

    # An answer of ibtpo is dearer by a quarter, so it has 4 questions a step, for grpo's 5.
    assert (grpo["questions_a_step"], ibtpo["questions_a_step"]) == (5, 4)
    assert summary["matched"] == "generated tokens and optimiser steps"
    # Both best rates are at an end of the grid at first: 2e-4 is the highest, 1e-4 the lowest.
    assert list(grpo["validation"]) == ["0.0001", "0.0002", "0.0004"]
    assert list(ibtpo["validation"]) == ["5e-05", "0.0001", "0.0002"]
    assert [a["at_edge"] for a in (grpo, ibtpo)] == [False, False]
    assert [len(row) for row in ibtpo["validation"].values()] == [3, 3, 3]
    started = [Path(line.split()[0]) for line in Path("started.txt").read_text().splitlines()]
    assert sorted(map(str, started[:2])) == ["out/sizes/grpo", "out/sizes/ibtpo"]
    assert {p.parts[1] for p in started[2:20]} == {"pilots"}  # two arms, two rates and one more, three seeds
    assert [p.name for p in started[20:]] == ["seed0", "seed0", "seed1", "seed1"]
    assert not list(Path("out").glob("*/*/**/model"))
    assert not list(Path("out").glob("*/*/**/checkpoints"))
    assert not list(Path("out/logs").iterdir())
    arm = yaml.safe_load(Path("out/arms/grpo.yaml").read_text())
    assert (arm["num_generations"], arm["threads"], arm["eval_limit"], arm["eval_every_tokens"]) == (8, 1, 5, 2000)
    assert [json.loads(line)["id"] for line in Path("out/data/validation.jsonl").read_text().splitlines()] == [
        "train-g", "train-h", "train-i"
    ]  # fmt: skip

    text = Path("out/table.md").read_text()
    assert "| ibtpo | 40.5 [" in text
    assert "| +10.0 [+10.0, +10.0] |" in text
    assert "Matched in generated tokens and optimiser steps" in text
    assert "as many optimiser steps as grpo does" in text
    assert "learning rate was chosen on 3 other problems by pilots of 800 tokens and 3 seeds" in text
    curves = Path("out/curves.csv").read_text().splitlines()
    assert curves[0] == "arm,seed,measure,tokens,seconds,value"
    assert len([line for line in curves if line.startswith("ibtpo,1,accuracy")]) == 3
    assert len([line for line in curves if line.startswith("ibtpo,1,kl")]) == 4
    pictures = {"accuracy-tokens", "accuracy-time", "eff-rate", "ib-score", "cov-eta", "entropy", "kl"}
    assert {p.stem for p in Path("out").glob("*.svg")} == pictures
    assert "ibtpo" in Path("out/accuracy-tokens.svg").read_text()


def test_seeds_and_arms_are_added_and_nothing_is_done_twice(call: Compare, place: Path) -> None:
    one_rate = (*ARGS, "--learning-rates", "1e-4", "--quiet")
    assert call(*one_rate, "--arms", "ibtpo", "--seeds", 0)[0] == 0
    code, _, err = call(*one_rate, "--arms", "ibtpo", "--seeds", 0)
    assert code == 2
    assert "out exists already; give --resume" in err
    assert call(*one_rate, "--arms", "ibtpo,lam=0", "--seeds", 0, 1, "--resume", "--keep-models")[0] == 0
    started = Path("started.txt").read_text().splitlines()
    finals = ("ibtpo/seed0", "ibtpo-lam-0/seed0", "ibtpo/seed1", "ibtpo-lam-0/seed1")
    assert [line.split()[0].removeprefix("out/") for line in started] == [
        "runs/ibtpo/seed0", "sizes/ibtpo", "sizes/ibtpo-lam-0", *(f"runs/{name}" for name in finals[1:])
    ]  # fmt: skip
    assert yaml.safe_load(Path("out/arms/ibtpo-lam-0.yaml").read_text())["prompts_per_step"] == 5
    assert [Path(f"out/runs/ibtpo/seed{seed}/model").exists() for seed in (0, 1)] == [False, True]
    table = Path("out/table.md").read_text()
    assert "All arms have the same learning rate." in table
    assert "] †" not in table  # both arms have two seeds
    summary = json.loads(Path("out/summary.json").read_text())
    assert list(summary["paired"]) == ["ibtpo-ibtpo,lam=0"]
    wall = summary["wall_seconds"]
    code, out, _ = call("compare", "training", "--output", "out", "--summary-only", "--json")
    assert code == 0
    assert json.loads(out)["arms"] == summary["arms"]
    assert json.loads(out)["wall_seconds"] == wall
    code, _, err = call(*one_rate, "--arms", "ibtpo", "--resume", "--validation", 4)
    assert code == 2
    assert "--resume: validation is 4, but 3 in out" in err
    code, _, err = call(*one_rate, "--arms", "ibtpo", "--resume", "--set", "ib_beta=2")
    assert code == 2
    assert "--resume: ib_beta is 2, but None in out" in err
    code, _, err = call(*one_rate, "--arms", "ibtpo", "--resume", "--no-match-steps")
    assert code == 2
    assert "--resume: match_steps is None, but 'ibtpo' in out" in err


def test_a_failed_run_is_named_and_does_not_stop_the_others(call: Compare, place: Path) -> None:
    words = (*ARGS, "--learning-rates", "1e-4", "--seeds", 0, "--no-match-steps", "--arms", "ibtpo,lam=9", "ibtpo")
    code, _, err = call(*words)
    assert code == 2
    assert "ibtpo,lam=9, seed 0: exit status 1: out of memory (out/logs/runs-ibtpo-lam-9-seed0.log)" in err
    assert "1 runs failed: ibtpo,lam=9, seed 0" in err
    assert list(json.loads(Path("out/summary.json").read_text())["arms"]) == ["ibtpo"]
    table = Path("out/table.md").read_text()
    assert "] † |" in table  # of one seed
    assert "Matched in generated tokens: every run" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "ibtpo,lamb=1"], "--arms 'ibtpo,lamb=1': unknown option 'lamb'; did you mean 'lam'"),
        (["--arms", "ibtpo,branching=trie"], "--arms 'ibtpo,branching=trie': unknown branching rule 'trie'"),
        (["--set", "beta"], "--set: 'beta' is no KEY=VALUE"),
        (["--set", "seed=1"], "--set: seed is set by the comparison; give --seeds"),
        (["--pilot-seeds", "1"], "--pilot-seeds: 1 is one of --seeds"),
        (["--learning-rates", "1e-4", "1e-4"], "--learning-rates 0.0001 0.0001: a value occurs twice"),
        (["--jobs", "0"], "--jobs must be above 0, got 0"),
        (["--validation", "10"], "--validation 10: only 9 training problems"),
    ],
)
def test_wrong_options_are_told_before_anything_is_made(
    call: Compare, place: Path, words: list[str], message: str
) -> None:
    code, _, err = call(*ARGS, *words)
    assert code == 2
    assert message in err
    assert not Path("out").exists()


def test_a_killed_comparison_goes_on_where_it_was(place: Path, call: Compare) -> None:
    """Killed with a run under way: the run ends with it, and is resumed, not begun anew."""
    (place / "STOP").touch()
    patch = (
        "import sys, ibtpo.compare.training_jobs as j; j.COMMAND = (sys.executable, 'fake_child.py'); j.POLL = 0.02\n"
    )
    (place / "main.py").write_text(patch + "from ibtpo.cli import main; sys.exit(main())\n")
    child = "import runpy\nfrom ibtpo.__main__ import end_with_parent\nend_with_parent()\nrunpy.run_path('fake.py')\n"
    (place / "fake_child.py").write_text(child)
    words = [str(w) for w in (*ARGS, "--learning-rates", "1e-4", "--arms", "ibtpo", "--seeds", 0)]
    process = subprocess.Popen([sys.executable, "main.py", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 100
    while not (place / "started.txt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1.5)  # for the run to notice; it would end as soon as it may
    (place / "STOP").unlink()
    time.sleep(0.5)
    assert not (place / "out/runs/ibtpo/seed0/eval.json").exists()  # the run was ended, too
    code, _, err = call(*words, "--resume")
    assert code == 0, err
    lines = (place / "started.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == [f"out{os.sep}arms{os.sep}ibtpo.yaml", "--resume"]
    assert json.loads((place / "out/summary.json").read_text())["arms"]["ibtpo"]["steps"] == [4]


@pytest.mark.slow
def test_real_runs_of_the_embedded_model_survive_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    words = ["compare", "training", "--output", "out", "--arms", "ibtpo", "--seeds", "0", "--tokens", "3000", "--set"]
    words += ["eval_limit=6", "eval_k=2", "prompts_per_step=1", "save_steps=1", "beta=0.001", "--validation", "5"]
    words += ["--learning-rates", "1e-4", "--evaluations", "3", "--json"]
    command = [sys.executable, "-m", "ibtpo", *words]
    run = tmp_path / "out/runs/ibtpo/seed0"
    log = (tmp_path / "log.txt").open("wb")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    deadline = time.monotonic() + 500
    while len(RunFolder(run).read_evals()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, (tmp_path / "log.txt").read_text()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not RunFolder(run).read_eval().get("after")
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in metrics if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))
    rows = RunFolder(run).read_evals()
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["generated_tokens"] >= 3000 > rows[-2]["generated_tokens"] >= 1000
    found = json.loads(done.stdout)["arms"]["ibtpo"]
    assert found["steps"] == [steps[-1]]
    assert found["acc"] == pytest.approx(np.mean(list(rows[-1]["grades"].values())))
    assert not (run / "checkpoints").exists()
    assert not (run / "model").exists()
