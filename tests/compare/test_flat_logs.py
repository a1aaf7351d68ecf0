"""Flat GRPO logs: numbers against a group counted by hand, what is refused, and a log TRL really wrote."""

import json
import math

import pytest

from ibtpo.cli import main
from ibtpo.compare.flat_logs import read_flat_log
from ibtpo.errors import ConfigError, DataError

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
import pyarrow as pa
from pyarrow import parquet

# Step 3: question A two of four right, question B none of four (one answer twice). Step 7: A all four right.
STEP_3 = [("A", "ab", 1.0), ("A", "abcd", 0.0), ("A", "x", 1.0), ("A", "y", 0.0)]
STEP_3 += [("B", "n", 0.0), ("B", "n", 0.0), ("B", "m", 0.0), ("B", "k", 0.0)]
STEP_7 = [("A", "ab", 1.0), ("A", "ac", 1.0), ("A", "ad", 1.0), ("A", "ae", 1.0)]


def write(file, step, rows, name="right", **columns):
    file.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "step": [step] * len(rows),
        "prompt": [r[0] for r in rows],
        "completion": [r[1] for r in rows],
        name: [r[2] for r in rows],
        **columns,
        "advantage": [0.0] * len(rows),
    }
    parquet.write_table(pa.table(table), file)
    return file


@pytest.fixture
def run(tmp_path):
    write(tmp_path / "completions" / "completions_00007.parquet", 7, STEP_7)
    write(tmp_path / "completions" / "completions_00003.parquet", 3, STEP_3)
    return tmp_path


def test_numbers_are_those_counted_by_hand(run):
    log = read_flat_log(run)
    assert log.steps == [
        {"step": 3, "groups": 2, "answers": 8, "eff_rate": 0.5, "avg_rate": 0.25, "pass_at_g": 0.5, "uniform": 0.5,
         "distinct": (1 + 0.75) / 2, "characters": 12 / 8, "reward/right": 0.25},
        {"step": 7, "groups": 1, "answers": 4, "eff_rate": 0.0, "avg_rate": 1.0, "pass_at_g": 1.0, "uniform": 1.0,
         "distinct": 1.0, "characters": 2.0, "reward/right": 1.0},
    ]  # fmt: skip
    assert (log.correct, log.repeated) == ("right", [])
    assert read_flat_log(run / "completions").steps == log.steps
    assert read_flat_log(run / "completions" / "completions_00007.parquet").steps == log.steps[1:]


@pytest.mark.parametrize("step", ["3", " 3", 3.0])
def test_a_step_may_be_text_or_a_float(tmp_path, step):
    (row,) = read_flat_log(write(tmp_path / "completions_00003.parquet", step, STEP_3)).steps
    assert (row["step"], row["groups"], row["avg_rate"]) == (3, 2, 0.25)


@pytest.mark.parametrize("step", ["three", "", "-3", 3.5, -1, True, math.inf])
def test_a_step_that_is_no_number_is_refused(tmp_path, step):
    with pytest.raises(DataError, match="row 1: step must be a whole number, got"):
        read_flat_log(write(tmp_path / "completions_00003.parquet", step, STEP_3))


def test_an_answer_without_a_reward_is_left_out_and_so_is_a_group_of_them(tmp_path):
    rows = [("A", "a", 1.0), ("A", "b", math.nan), ("B", "c", None), ("B", "d", None), ("C", "e", 0.0), ("C", "f", 1.0)]
    (step,) = read_flat_log(write(tmp_path / "c.parquet", 1, rows)).steps
    assert (step["eff_rate"], step["avg_rate"], step["pass_at_g"], step["groups"]) == (0.5, 0.75, 1.0, 3)


def test_the_batch_trl_writes_again_while_it_trains_on_it_is_counted_once(run):
    for step in (4, 5):
        write(run / "completions" / f"completions_0000{step}.parquet", step, STEP_3)
    log = read_flat_log(run)
    assert [s["step"] for s in log.steps] == [3, 7]
    assert log.repeated == [4, 5]


def test_correctness_is_taken_from_no_shaped_reward_and_from_none_of_several_unless_named(tmp_path):
    shaped = read_flat_log(write(tmp_path / "s.parquet", 1, [("A", "a", 0.5), ("A", "b", 1.0)]))
    assert shaped.correct is None
    assert shaped.why == "the column right holds 0.5, so it is a shaped reward, which does not say what is right"
    assert set(shaped.steps[0]) == {"step", "groups", "answers", "distinct", "characters", "reward/right"}
    assert shaped.steps[0]["reward/right"] == 0.75
    two = write(tmp_path / "t.parquet", 1, [("A", "a", 1.0), ("A", "b", 0.0)], format=[0.25, 0.75], note=["x", "y"])
    assert read_flat_log(two).correct is None
    assert read_flat_log(two).why.startswith("the columns 'right', 'format' are numbers")
    assert read_flat_log(two, "right").steps[0]["eff_rate"] == 1.0
    assert "holds 0.25" in read_flat_log(two, "format").why
    with pytest.raises(ConfigError, match="unknown reward column 'rihgt'; did you mean 'right'"):
        read_flat_log(two, "rihgt")


def test_conversations_are_grouped_and_measured_by_their_contents(tmp_path):
    ask = [{"role": "user", "content": "A"}]
    say = [[{"role": "assistant", "content": text}] for text in ("abc", "abc", "d", "e")]
    rows = [(ask, s, float(i % 2)) for i, s in enumerate(say)]
    (step,) = read_flat_log(write(tmp_path / "c.parquet", 1, rows)).steps
    assert (step["groups"], step["distinct"], step["characters"], step["eff_rate"]) == (1, 0.75, 2.0, 1.0)


def test_a_wrong_file_is_named_with_its_row(tmp_path, run):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    write(tmp_path / "null.parquet", 1, [("A", "a", 1.0), ("A", None, 1.0)])
    write(tmp_path / "step.parquet", None, [("A", "a", 1.0)])
    write(tmp_path / "inf.parquet", 1, [("A", "a", 1.0), ("A", "b", math.inf)])
    write(tmp_path / "empty.parquet", 1, [])
    parquet.write_table(pa.table({"step": [1], "text": ["a"]}), tmp_path / "columns.parquet")
    cases = [
        ("x.parquet", "x.parquet: not a readable Parquet file"),
        ("null.parquet", "null.parquet: row 2: completion must be text or a list of messages, got 'None'"),
        ("step.parquet", "step.parquet: row 1: step must be a whole number, got None"),
        ("inf.parquet", "inf.parquet: row 2: right must be a finite number, got inf"),
        ("empty.parquet", "empty.parquet: no rows"),
        ("columns.parquet", "columns.parquet: no column 'prompt', 'completion'; it has 'step', 'text'"),
    ]
    for name, text in cases:
        with pytest.raises(DataError, match=text):
            read_flat_log(tmp_path / name)
    write(run / "completions" / "completions_00009.parquet", 3, STEP_3)
    with pytest.raises(DataError, match=r"completions_00009.parquet: step 3 is in .*completions_00003.parquet too"):
        read_flat_log(run)
    write(run / "completions" / "completions_00009.parquet", 9, STEP_3, name="other")
    with pytest.raises(DataError, match=r"completions_00009.parquet: its reward columns are 'other'"):
        read_flat_log(run)
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        read_flat_log(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="log_completions=True"):
        read_flat_log(tmp_path / "bare")


def test_the_command_says_what_it_cannot_compute_and_what_to_run_instead(run, capsys):
    assert main(["diagnose", "--completions", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:5] == ["3", "2", "8", "0.500", "0.250"]
    for text in ("Correctness is the column right.", "IB-Score, Cov(η1,η2): need", "ibtpo diagnose --model CHECKPOINT"):
        assert text in out
    assert main(["diagnose", "--completions", str(run), "--json"]) == 0
    *steps, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [s["eff_rate"] for s in steps] == [0.5, 0.0]
    assert last["correct"] == "right"
    assert any("IB-Score" in name for name in last["not_computed"])
    assert main(["diagnose", "--completions", str(run), "--model", "nano"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["diagnose", "--completions", str(run), "--output", "x"]) == 2
    assert "writes no files" in capsys.readouterr().err


def test_a_log_trl_wrote_gives_the_rates_it_logged(tiny_model, tmp_path):
    pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def more_a(completions, **kwargs):
        return [float(c.count("a") > c.count("b")) for c in completions]

    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=16,
        max_steps=4, steps_per_generation=2, log_completions=True, num_completions_to_print=0, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, bf16=False, learning_rate=1e-2,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": a + b} for a in "abc" for b in "defg"])
    trainer = GRPOTrainer(str(tiny_model), more_a, args, data)
    trainer.train()
    log = read_flat_log(tmp_path)
    assert log.repeated == [2, 4]
    rows = {row["step"]: row for row in trainer.state.log_history if "reward" in row}
    for step in log.steps:  # TRL logs a generation's reward at the step that sampled it
        assert step["avg_rate"] == pytest.approx(rows[step["step"]]["reward"], abs=1e-6)
        assert step["uniform"] == pytest.approx(rows[step["step"]]["frac_reward_zero_std"], abs=1e-6)
        assert step["groups"] == 4
