"""Damaged run folders and trainings that cannot go on: named, left alone, and whole again without what is damaged."""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.malformed_place import Call, assert_one_message, letters, write
from helpers.tiny_model import make_tiny_model
from ibtpo.errors import CheckpointError, ConfigError, DataError, IBTPOError, VerifierError
from ibtpo.storage.run_folder import STATE_FILE, RunFolder

# --- run folders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(place: Path) -> RunFolder:
    """A run folder with a whole checkpoint, as a run killed after step 4 leaves it."""
    settings = {"model": "tiny", "data": "q.jsonl", "eval_data": None, "verifier": "letters:more_a", "method": "ibtpo"}
    sizes = {"prompts_per_step": 2, "num_generations": 4, "max_completion_length": 8, "threads": 1, "save_steps": 1}
    folder = RunFolder(place / "run")
    folder.create({**settings, **sizes, "max_generated_tokens": 100, "learning_rate": 1e-3}, {})
    letters(place)
    for step in (2, 4):
        checkpoint = folder.checkpoints / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (checkpoint / STATE_FILE).write_text('{"generated_tokens": 0}')
    return folder


FOLDERS: list[tuple[str, dict[str, bytes | str], str]] = [
    ("an empty config.yaml", {"config.yaml": ""}, r"config\.yaml: expected KEY: VALUE lines, got nothing"),
    ("a truncated config.yaml", {"config.yaml": 'model: "ti'}, r"config\.yaml, line 1: "),
    ("a list for config.yaml", {"config.yaml": "- a\n"}, r"config\.yaml: expected KEY: VALUE lines, got list"),
    ("config.yaml not UTF-8", {"config.yaml": b"model: \xff\n"}, r"config\.yaml: byte 8 is not UTF-8"),
    (
        "an unknown key",
        {"config.yaml": "model: tiny\nmodle: x\n"},
        r"config\.yaml: unknown option 'modle'; did you mean",
    ),
    ("a wrong type", {"config.yaml": "seed: x\n"}, r"config\.yaml: seed must be an integer, got 'x'"),
    ("a truncated eval.json", {"eval.json": '{"before": {"avg"'}, r"eval\.json: not valid JSON .* delete it"),
    ("a list for eval.json", {"eval.json": "[]"}, r"eval\.json: expected .* delete it"),
    ("a number in eval.json", {"eval.json": '{"before": 3}'}, r"eval\.json: expected .* delete it"),
]


@pytest.mark.parametrize(("files", "message"), [f[1:] for f in FOLDERS], ids=[f[0] for f in FOLDERS])
def test_a_damaged_run_folder_is_named_and_left_alone(
    files: dict[str, bytes | str], message: str, run: RunFolder, call: Call
) -> None:
    write(run.path, files)
    before = sorted((p, p.stat().st_mtime_ns) for p in run.path.rglob("*"))
    assert_one_message(*call("train", "--resume", "run")[::2], message)
    assert sorted((p, p.stat().st_mtime_ns) for p in run.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "run", "--seed", "3"], r"--resume takes the settings of run; leave out \['seed'\]"),
        (["r.yaml", "--resume", "run"], r"--resume takes the settings of run; leave out r\.yaml"),
        (["--output", "run"], r"run exists; go on with it with --resume run, start anew with --overwrite"),
        (["--output", "folder/x", "--resume"], r"folder/x is no run folder: it has no config\.yaml"),
        (["--output", "stuff", "--overwrite"], r"stuff is no run folder \(no config\.yaml\): --overwrite will not delete"),
        (["--output", "good.jsonl", "--overwrite"], r"good\.jsonl is no run folder"),
        (["--output", "run", "--overwrite", "--model", "nanoo"], r"unknown model 'nanoo'"),
        (["--output", "run", "--overwrite", "--model", "tiny", "--data", "nowhere.jsonl"], r"nowhere\.jsonl does not exist"),
        (["--output", "run", "--overwrite", "--model", "tiny", "--data", "long.jsonl", "--verifier", "letters:more_a"],
         r"problem 'long-1': its prompt has 200 tokens"),
        (["--output", "new", "--model", "tiny", "--data", "good.jsonl", "--eval-data", "long.jsonl"],
         r"problem 'long-1': its prompt has 200 tokens"),
        (["--output", "new", "--model", "tiny", "--data", "good.jsonl", "--eval-data", "none"],
         r"prompts_per_step = 16 questions but good\.jsonl gives"),
        (["--output", "good.jsonl/run", "--model", "tiny", "--data", "good.jsonl", "--prompts-per-step", "1"],
         r"the run folder good\.jsonl/run cannot be made"),
    ],
)  # fmt: skip
def test_a_command_that_would_not_run_touches_no_run_folder(
    words: list[str], message: str, run: RunFolder, call: Call, place: Path
) -> None:
    (place / "stuff").mkdir()
    (place / "stuff" / "thesis.txt").write_text("years of work")
    (place / "long.jsonl").write_text(json.dumps({"question": "a" * 200, "answer": "1"}))
    before = sorted((p, p.stat().st_mtime_ns) for f in ("run", "stuff") for p in (place / f).rglob("*"))
    assert_one_message(*call("train", *words)[::2], message)
    assert sorted((p, p.stat().st_mtime_ns) for f in ("run", "stuff") for p in (place / f).rglob("*")) == before
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: (c / "trainer_state.json").unlink(),
        lambda c: (c / "trainer_state.json").write_text('{"global_st'),
        lambda c: (c / "trainer_state.json").write_bytes(b"\xff\x00"),
        lambda c: (c / STATE_FILE).unlink(),
        lambda c: (c / STATE_FILE).write_text(""),
        lambda c: (c / STATE_FILE).write_text("{}"),
        lambda c: (c / "trainer_state.json").write_text("[]"),
        shutil.rmtree,
    ],
    ids=[
        "no state",
        "half a state",
        "a binary state",
        "no state of ours",
        "an empty state of ours",
        "no count of ours",
        "a list",
        "nothing",
    ],
)
def test_a_half_written_checkpoint_falls_back_to_the_one_before(damage: Callable[[Path], Any], run: RunFolder) -> None:
    damage(run.checkpoints / "checkpoint-4")
    last = run.last_checkpoint()
    assert last == run.checkpoints / "checkpoint-2"


def test_names_that_are_no_checkpoints_are_passed_over(run: RunFolder) -> None:
    for name in ("checkpoint-", "checkpoint-old", "checkpoint-9.tmp"):
        (run.checkpoints / name).mkdir()
    assert run.last_checkpoint() == run.checkpoints / "checkpoint-4"
    assert (run.checkpoints / "checkpoint-old").is_dir()


def test_a_truncated_metrics_file_keeps_its_whole_rows(run: RunFolder) -> None:
    from transformers import TrainerControl, TrainerState

    from ibtpo.training.callbacks import MetricsFile

    rows = [json.dumps({"step": s, "loss": 0.5}) for s in (1, 2, 3)]
    run.metrics.write_bytes(
        "\n".join([rows[0], "[]", "7", '{"loss": 1}', rows[1], rows[2], '{"step": 4, "lo']).encode() + b"\xff"
    )
    MetricsFile(run.metrics).on_train_begin(None, TrainerState(global_step=2), TrainerControl())
    assert run.metrics.read_text().splitlines() == rows[:2]


def test_reading_a_damaged_folder_raises_the_documented_errors(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        RunFolder(tmp_path / "nowhere").settings()
    (run.path / "eval.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"eval\.json"):
        run.read_eval()
    with pytest.raises(ConfigError, match="--resume"):
        run.create({}, {})
    assert issubclass(DataError, IBTPOError)


# --- training ------------------------------------------------------------------------------------------------------

TRAIN = ["--model", "tiny", "--data", "q.jsonl", "--eval-data", "none", "--prompts-per-step", 2, "--num-generations", 4,
         "--max-completion-length", 8, "--threads", 1, "--quiet", "--verifier-workers", 1, "--tree", "2,3,1,1"]  # fmt: skip


def train(call: Call, *words: object) -> tuple[int, str, str]:
    return call("train", "--output", "run", *TRAIN, "--max-generated-tokens", 60, *words)


def test_a_verifier_that_always_fails_ends_training_with_its_reason(call: Call, place: Path) -> None:
    letters(place)
    code, _, err = train(call, "--verifier", "letters:fail")
    assert_one_message(
        code, err, r"all 8 answers of step 0 failed in the verifier.*; the first: fail: ValueError: no such unit"
    )


def test_training_needs_no_end_token(call: Call, place: Path) -> None:
    make_tiny_model(place / "endless", eos=False)
    letters(place)
    code, _, err = train(call, "--model", "endless", "--verifier", "letters:more_a")
    assert code == 0, err
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ibtpo/truncated"] == 1.0


def test_a_damaged_checkpoint_is_named_and_without_it_the_run_goes_on(call: Call, place: Path) -> None:
    letters(place)
    assert train(call, "--verifier", "letters:more_a", "--save-steps", 1)[0] == 0
    *_, before, last = sorted((place / "run" / "checkpoints").glob("checkpoint-*"))
    config = place / "run" / "config.yaml"
    config.write_text(re.sub("max_generated_tokens: .*", "max_generated_tokens: 100000000", config.read_text()))
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        good = (last / name).read_bytes()
        (last / name).write_bytes(good[: len(good) // 3])
        code, _, err = call("train", "--resume", "run")
        assert_one_message(code, err, rf"run/checkpoints/{last.name} cannot be read \(.*delete it to go on from the ch")
        (last / name).write_bytes(good)
    rows = (place / "run" / "metrics.jsonl").read_text()
    config.write_text(config.read_text().replace("100000000", "60"))
    shutil.rmtree(last)
    assert call("train", "--resume", "run")[0] == 0
    steps = [json.loads(line)["step"] for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in rows.splitlines()]
    assert before.is_dir()


def test_a_tokenizer_with_neither_a_padding_nor_an_end_token_is_refused(call: Call, place: Path) -> None:
    make_tiny_model(place / "padless", eos=False)
    settings = json.loads((place / "padless" / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (place / "padless" / "tokenizer_config.json").write_text(json.dumps(settings))
    letters(place)
    code, _, err = train(call, "--model", "padless", "--verifier", "letters:more_a")
    assert_one_message(
        code, err, r"the tokenizer has neither a padding nor an end-of-sequence token; set its pad_token"
    )


def test_settings_the_trainer_refuses_are_one_line(call: Call, place: Path) -> None:
    letters(place)
    code, _, err = train(call, "--verifier", "letters:more_a", "--report-to", "nosuch")
    assert_one_message(code, err, r"the trainer refuses these settings: .*nosuch")


def test_nothing_is_awaited_for_ever() -> None:
    """A search whose verifier raises in the event loop ends at once, with the others cancelled."""
    from ibtpo.engines import Completion, Sampling
    from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch

    class Engine:
        async def generate(self, prompt_ids: Any, sampling: Sampling, seed: int, max_new_tokens: int) -> Completion:
            await asyncio.sleep(0 if seed % 2 else 0.01)
            return Completion([1], [-0.5], None, "length")

    class Verifier:
        names = ("x",)

        async def ascore(self, rows: Any) -> Any:
            raise VerifierError("closed")

    search = TreeSearch(Engine(), Verifier(), str, SearchOptions(Budget(4, 2)))  # type: ignore[arg-type]

    async def grow() -> None:
        with contextlib.suppress(VerifierError):
            await asyncio.wait_for(search.grow_all([Prompt("a", (1,), "a"), Prompt("b", (2,), "b")]), 20)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(grow())
