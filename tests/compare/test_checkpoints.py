"""`ibtpo diagnose` on two tiny checkpoints: the numbers of `ibtpo sample`, resumed, broken, and the verdict."""

import csv
import html
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.places import ROOT
from helpers.tiny_model import make_tiny_model
from ibtpo.cli import main
from ibtpo.compare.checkpoints import find_checkpoints, labels, measure, what_changed
from ibtpo.errors import ConfigError
from ibtpo.evaluation.statistics import bootstrap_interval
from ibtpo.metrics import tree_record
from ibtpo.report.checkpoints import places, write_diagnosis
from ibtpo.tree import read_trees

ROOT_OPTIONS = [
    "--max-completion-length",
    "16",
    "--temperature",
    "1",
    "--top-p",
    "1",
    "--top-k",
    "0",
    "--tree",
    "3,4,1,1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trainer's output folder with checkpoints 5 and 20, problems and a verifier."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("diagnose")
    for step in (5, 20):
        checkpoint = make_tiny_model(folder / "out" / f"checkpoint-{step}")
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        with torch.no_grad():
            model.lm_head.weight[2] += 0.02 * step  # more and more of the letter a
        model.save_pretrained(checkpoint)
    (folder / "out" / "checkpoint-best").mkdir()  # not a step
    rows = [{"question": a + b, "answer": "-"} for a in "abcd" for b in "ef"]
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "more_a.py").write_text(
        "def reward(completions, **columns):\n    return [float(c.count('a') > c.count('b')) for c in completions]\n"
    )
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", str(place))

    def run(*words: object):
        code = main([str(w) for w in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


DATA = ["--data", "data.jsonl", "--verifier", "more_a:reward", "--device", "cpu", *ROOT_OPTIONS]


def test_each_checkpoint_has_the_numbers_of_ibtpo_sample_and_their_bootstrap_intervals(call, tmp_path):
    sampled = {}
    for step in (5, 20):
        file = tmp_path / f"sampled-{step}.jsonl"
        assert call("sample", "--model", f"out/checkpoint-{step}", *DATA, "--output", file, "--quiet")[0] == 0
        sampled[step] = [tree_record(t) for t in read_trees(file)]
    code, out, err = call("diagnose", "--model", "out", *DATA, "--json", "--quiet", "--output", tmp_path / "d")
    assert (code, err) == (0, "")
    *rows, last = map(json.loads, out.splitlines())
    assert [(r["step"], r["label"], r["problems"]) for r in rows] == [(5, "checkpoint-5", 8), (20, "checkpoint-20", 8)]
    for row in rows:
        records = sampled[row["step"]]
        for name in ("eff_rate", "avg_rate", "pass_at_g", "cov_eta", "ib_score", "entropy", "branch_depth"):
            column = np.array([r[name] for r in records], dtype=float)
            low, high = bootstrap_interval(column)
            expected = {"mean": np.nanmean(column), "low": low, "high": high}
            assert row[name] == pytest.approx(expected, abs=1e-6), name
        assert row["generated_tokens"] == sum(r["generated_tokens"] for r in records)
        assert row["trajectories"] == 8 * 6
    assert rows[1]["avg_rate"]["mean"] > rows[0]["avg_rate"]["mean"]
    assert last["verdict"] == what_changed(sampled[5], sampled[20])
    summary = json.loads((tmp_path / "d" / "summary.json").read_text())
    assert summary["checkpoints"] == rows
    assert summary["verdict"] == last["verdict"]
    page = (tmp_path / "d" / "diagnosis.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 6
    assert "checkpoint-20: {mean:.3f} [{low:.3f}, {high:.3f}]".format(**rows[1]["cov_eta"]) in page
    assert all(html.escape(sentence, quote=False) in page for sentence in last["verdict"])
    with open(tmp_path / "d" / "curve.csv", newline="", encoding="utf-8") as f:
        curve = list(csv.DictReader(f))
    assert [(r["checkpoint"], int(r["step"])) for r in curve] == [("checkpoint-5", 5), ("checkpoint-20", 20)]
    for line, row in zip(curve, rows, strict=True):
        for name in ("cov_eta", "eff_rate", "ib_score", "entropy", "avg_rate", "policy_rate"):
            for column, key in ((name, "mean"), (f"{name}_low", "low"), (f"{name}_high", "high")):
                assert float(line[column]) == pytest.approx(row[name][key])
    stored = read_trees(tmp_path / "d" / "trees" / "checkpoint-20.jsonl")
    for tree, expected in zip(stored, sampled[20], strict=True):
        assert tree_record(tree) == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_a_resumed_curve_grows_only_what_is_missing_and_is_the_same(call, tmp_path, monkeypatch):
    folder = tmp_path / "d"
    arguments = ["diagnose", "--model", "out", *DATA, "--output", folder, "--quiet"]
    code, whole, _ = call(*arguments)
    assert code == 0
    assert whole.splitlines()[0].split() == [
        "checkpoint", "Avg-Rate", "policy's", "own", "Eff-Rate", "Cov(η1,η2)", "IB-Score", "entropy",
    ]  # fmt: skip
    code, _, err = call(*arguments)
    assert code == 2
    assert "--resume to go on with it or --overwrite" in err
    trees = folder / "trees" / "checkpoint-20.jsonl"
    lines = trees.read_text().splitlines(keepends=True)
    trees.unlink()  # as a run killed in its fourth tree leaves it
    (folder / "trees" / "checkpoint-20.jsonl.partial").write_text("".join(lines[:3]) + lines[3][:50])
    opened = []
    import ibtpo.commands.diagnose as module

    open_model = module.open_model
    monkeypatch.setattr(module, "open_model", lambda args: opened.append(args.model) or open_model(args))
    code, out, _ = call(*arguments, "--resume")
    assert (code, out) == (0, whole)
    assert opened == ["out/checkpoint-20"]

    def tokens(lines):
        return [[node["token_ids"] for node in json.loads(line)["nodes"]] for line in lines]

    assert tokens(trees.read_text().splitlines()) == tokens(lines)
    code, _, err = call(*arguments, "--resume", "--seed", 1)
    assert code == 2
    assert "seed is 1, but 0" in err


def test_a_broken_checkpoint_is_named_and_the_others_go_on(call, place, tmp_path):
    broken = place / "half" / "checkpoint-7"
    broken.mkdir(parents=True, exist_ok=True)
    good = place / "out" / "checkpoint-5"
    for file in good.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 40 if file.name == "model.safetensors" else None])
    code, out, _ = call("diagnose", "--model", "half", good, *DATA, "--quiet", "--output", tmp_path / "d")
    assert code == 1
    assert "left out: cannot load model 'half/checkpoint-7'" in out
    assert "checkpoint-5 " in out
    assert out.splitlines()[-2:] == [
        f"curves: {tmp_path / 'd' / 'diagnosis.html'}",
        f"trees: {tmp_path / 'd' / 'trees.html'}",
    ]
    assert (tmp_path / "d" / "trees.html").exists()
    assert 'href="trees.html' in (tmp_path / "d" / "diagnosis.html").read_text(encoding="utf-8")
    assert "Left out: cannot load model" in (tmp_path / "d" / "diagnosis.html").read_text(encoding="utf-8")
    first, second = json.loads((tmp_path / "d" / "summary.json").read_text())["checkpoints"]
    assert "checkpoint-7" in first["error"]
    assert second["problems"] == 8
    code, out, err = call("diagnose", "--model", "half", *DATA, "--quiet")
    assert (code, out) == (2, "")
    assert "no checkpoint could be measured; the first: cannot load model" in err


def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(call, place):
    for words, text in [
        (["--model", "out", "./outt", *DATA], "model folder './outt' does not exist"),
        (["--model", "out"], "give --model and --data"),
        (["--model", "out", *DATA, "--resume"], "--resume needs --output"),
        (["--model", "out", *DATA, "--reward-column", "x"], "--reward-column is for --completions"),
        (["--model", "out", *DATA, "--output", "data.jsonl"], "data.jsonl is a file"),
        (["--model", "out/checkpoint-best", *DATA], "holds no config.json"),
    ]:
        code, out, err = call("diagnose", *words)
        assert (code, out) == (2, ""), words
        assert text in err


def test_overwrite_deletes_nothing_that_is_not_a_diagnosis_and_nothing_before_the_options_are_right(call, tmp_path):
    run, old = tmp_path / "run", tmp_path / "old"
    for folder, name in ((run, "step_000001.jsonl.gz"), (old, "nano.jsonl")):
        (folder / "trees").mkdir(parents=True)
        (folder / "trees" / name).write_text("")
    (run / "config.yaml").write_text("")
    code, _, err = call("diagnose", "--model", "out", *DATA, "--output", run, "--overwrite")
    assert code == 2
    assert "run is no diagnosis, it holds config.yaml" in err
    assert (run / "trees" / "step_000001.jsonl.gz").exists()
    code, _, err = call("diagnose", "--model", "out", "--data", "dta.jsonl", "--output", old, "--overwrite")
    assert code == 2
    assert "dta.jsonl does not exist" in err
    assert (old / "trees" / "nano.jsonl").exists()


def test_checkpoints_of_a_folder_come_in_order_of_step_and_get_short_names(place, monkeypatch):
    monkeypatch.chdir(place)
    assert find_checkpoints(["nano", "out"]) == ["nano", "out/checkpoint-5", "out/checkpoint-20"]
    assert labels(["nano", "a/checkpoint-5", "b/checkpoint-5"]) == ["nano", "a_checkpoint-5", "b_checkpoint-5"]
    with pytest.raises(ConfigError, match="does not exist"):
        find_checkpoints([str(Path("no/such/folder"))])


def records(cov, eff=(1.0, 0.0)):
    return [{"cov_eta": c, "eff_rate": eff[i % 2], "avg_rate": 0.5, "trajectories": 2} for i, c in enumerate(cov)]


def test_the_verdict_judges_the_differences_of_the_same_problems():
    spread = np.linspace(-0.01, 0.01, 40)
    before, after = records(0.03 + spread), records(spread / 10)
    cov, eff, avg = what_changed(before, after)
    assert cov.startswith("Cov(η1,η2) fell from 0.030 [")
    assert cov.endswith(": confidence no longer follows correctness")
    assert eff.startswith("Eff-Rate is 0.500 [")
    assert eff.endswith("50 % of the groups carry a signal")
    assert avg == "Avg-Rate is 0.500 [0.500, 0.500]"
    assert "though less than before" in what_changed(before, records(0.01 + spread / 10))[0]
    assert "confident in the wrong branches" in what_changed(before, records(-0.03 + spread / 10))[0]
    (noise,) = [s for s in what_changed(records(spread), records(spread[::-1])) if s.startswith("Cov")]
    assert "did not clearly change" in noise
    assert "cannot be told from 0" in noise
    assert "over 40 problems" in noise
    assert what_changed(records([math.nan] * 3), records([math.nan] * 3))[0].endswith(
        "nothing can be said about confidence"
    )
    assert "fewer groups carry a signal" in what_changed(records(spread, (1.0, 1.0)), records(spread, (1.0, 0.0)))[1]
    assert "no group carries a signal" in what_changed(before, records(spread, (0.0, 0.0)))[1]


def test_means_leave_out_what_is_not_defined_and_totals_are_added():
    row = measure(records([0.25, math.nan, 0.75]))
    assert row["cov_eta"]["mean"] == 0.5
    assert row["trajectories"] == 6


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([None, 50, 100], ([0, 50, 100], "step")),  # a base model, then its run
        ([0, 50], ([0, 50], "step")),
        ([None, None], ([1, 2], "checkpoint")),
        ([5, 5], ([1, 2], "checkpoint")),  # of two runs
        ([20, 5], ([1, 2], "checkpoint")),
        ([10], ([1], "checkpoint")),
    ],
)
def test_checkpoints_stand_at_their_steps_where_those_ascend(steps, expected):
    assert places(steps) == expected


def test_a_number_that_no_checkpoint_defines_has_no_curve_and_names_stay_text(tmp_path):
    some = measure(
        [{"cov_eta": math.nan, **dict.fromkeys(("eff_rate", "ib_score", "entropy", "avg_rate", "policy_rate"), 0.5)}]
        * 2
    )
    rows = [{"label": f"<b>\u202e{i}", "step": None, **some} for i in range(2)]
    page = write_diagnosis(rows, ["a < b"], [("data", "x")], tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "&lt;b&gt;[U+202E]1" in page
    assert "\u202e" not in page
    assert "<script" not in page
    assert "0.5,0.5,0.5" in (tmp_path / "curve.csv").read_text()


def test_the_tree_in_the_documentation_is_one(call, tmp_path):
    docs = ROOT / "docs" / "diagnosis.md"
    (example,) = re.findall(r"```json\n(.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "t.jsonl").write_text(json.dumps(json.loads(example)) + "\n")
    code, out, _ = call("score", tmp_path / "t.jsonl", "--json")
    assert code == 0
    assert [node["p_hat"] for node in json.loads(out)["nodes"]] == [0.5, 0.5, 1.0, 0.0]
    assert call("view", tmp_path / "t.jsonl")[0] == 0
