"""`ibtpo.train` on inputs as users have them: odd data sets, templates and models, a full disk, stray variables."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import ibtpo
from helpers.tiny_model import make_tiny_model
from ibtpo.cli import main
from ibtpo.errors import CheckpointError, ConfigError

# The answer is asked for with "j", or with "i" where a variable says so; after "a" where the date is the one of 2024.
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if strftime_now('%Y') == '2024' %}a{% else %}b{% endif %}"
    "{% if ask_i %}i{% else %}j{% endif %}"
)
ROWS: list[dict[str, Any]] = [
    {"prompt": {"text": "abc"[i % 3] * (1 + i // 3)}, "level": 3, "number": 2**70, "image": None, "meta": {"k": i}}
    for i in range(6)
]
ROWS[3] |= {"level": "5a", "number": None, "meta": {"other": ["x", 1]}}
REWARDS = """
def more_a(completions, level, number, meta, **columns):
    assert "image" not in columns and (level, number) in [(3, 2**70), ("5a", None)] and len(meta[0]) == 1
    return [float(c.count("a") > c.count("b")) for c in completions]
""".replace("(level, number)", "(level[0], number[0])")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_tiny_model(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    config = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "pad_token_id": 0, "eos_token_id": 1}
    (folder / "model" / "generation_config.json").write_text(json.dumps(config))
    (folder / "strict_rewards.py").write_text(REWARDS)
    (folder / "data").mkdir()
    for split in ("train", "dev"):
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.fixture(autouse=True)
def rewards(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))


def settings(place: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(place / "model"), "data": str(place / "data"), "question_column": "prompt.text",
        "verifier": "strict_rewards:more_a", "verifier_workers": 1, "prompts_per_step": 2, "num_generations": 4,
        "max_completion_length": 12, "temperature": 1.0, "max_steps": 3, "save_steps": 1, "threads": 1,
        "save_trees_every": 1, **changes,
    }  # fmt: skip


def steps_of(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row]


def test_a_data_set_of_mixed_types_trains_and_is_asked_the_same_when_it_is_measured(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibtpo.evaluation import evaluate as evaluation

    asked: list[str] = []
    evaluate = evaluation.evaluate

    def spy(engine: Any, verifier: Any, prompts: Any, **how: Any) -> Any:
        asked.extend(prompt.text for prompt in prompts)
        return evaluate(engine, verifier, prompts, **how)

    monkeypatch.setattr(evaluation, "evaluate", spy)
    held_out = {"eval_data": str(place / "data"), "eval_split": "dev", "eval_limit": 3, "eval_k": 1}
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run = ibtpo.train(
        settings(place, chat_template_kwargs={"ask_i": True}, **held_out), output=tmp_path / "run", overwrite=True
    )
    assert steps_of(run.path) == [1, 2, 3]
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "model" / "model.safetensors").is_file()
    trained = [
        tree.prompt for step in (1, 2, 3) for tree in ibtpo.read_trees(run.path / f"trees/step_{step:06}.jsonl.gz")
    ]
    assert len(trained) == 6
    assert set(trained) == {row["prompt"]["text"] + "ai" for row in ROWS}
    assert asked == [row["prompt"]["text"] + "ai" for row in ROWS[:3]] * 2  # before and after
    saved = json.loads((run.path / "model" / "generation_config.json").read_text())
    assert "temperature" not in saved
    assert saved["eos_token_id"] in (1, [1])


def test_an_image_is_refused_before_the_run_folder_is_made(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({**row, "id": i, "image": "a.png" if i == 4 else None}) + "\n"
                            for i, row in enumerate(ROWS)))  # fmt: skip
    with pytest.raises(ConfigError, match=r"^'4' has an image: trees are of text"):
        ibtpo.train(settings(place, data=str(file)), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that takes no file of more than `size` bytes, which stands for a full one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def words(place: Path, output: Path) -> list[str]:
    given = {**settings(place), "max_steps": 2}
    return [*(word for name, value in given.items() for word in (f"--{name}", str(value))), "--output", str(output)]


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"
    with largest_file(60_000):  # less than the weights
        assert main(["train", *words(place, run), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {run / 'checkpoints' / 'checkpoint-1'} cannot be written: ")
    assert err.endswith("what was written before is whole, go on with --resume\n")
    assert err.count("\n") == 1
    assert not list((run / "checkpoints").glob("checkpoint-*"))
    with largest_file((run / "metrics.jsonl").stat().st_size + 10):
        assert main(["train", "--resume", str(run), "--quiet"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "File too large" in error
    assert main(["train", "--resume", str(run), "--quiet", "--json"]) == 0
    assert steps_of(run) == [1, 2]
    assert (run / "model" / "model.safetensors").is_file()
    assert not list(run.rglob("*.part"))


def test_metrics_that_do_not_fit_name_their_file_and_the_command_that_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr("ibtpo.training.callbacks.append", full)
    run = tmp_path / "a run"
    assert main(["train", *words(place, run), "--quiet"]) == 2
    go_on = f"make room, then go on with: ibtpo train --resume {shlex.quote(str(run))}"
    assert capsys.readouterr().err == f"error: {run / 'metrics.jsonl'}: No space left on device; {go_on}\n"


def test_a_scheduler_s_world_size_changes_neither_the_batch_nor_who_writes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", *words(place, tmp_path / "run"), "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["output"] == str(tmp_path / "run")
    (warning,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: WORLD_SIZE=2 in the environment, but no launcher started this process")
    assert len(list(ibtpo.read_trees(tmp_path / "run" / "trees" / "step_000001.jsonl.gz"))) == 2
    assert os.environ["WORLD_SIZE"] == "2"


def test_a_run_that_is_going_on_is_neither_trained_twice_nor_deleted(place: Path, tmp_path: Path) -> None:
    from ibtpo.storage.run_folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    folder.create(settings(place), {})
    with folder.locked():
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(CheckpointError, match=r"run is being trained by process \d+"):
                ibtpo.train(None if "resume" in how else settings(place), output=folder.path, **how)
    assert (folder.path / "config.yaml").is_file()
