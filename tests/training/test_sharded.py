"""Two processes train as one does: with DDP, FSDP2, ZeRO-2 and ZeRO-3; what cannot be trained so is refused.

Each way is started twice: to train, measure and be killed, and to go on.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers import on_cpus
from helpers.tiny_model import make_tiny_model
from ibtpo.cli import main
from ibtpo.errors import ConfigError
from ibtpo.training.sharding import check_sharding

pytestmark = pytest.mark.slow

SETTINGS = {
    "verifier": "more_a:reward", "prompts_per_step": 4, "num_generations": 12, "max_completion_length": 24,
    "temperature": 1.0, "learning_rate": 0.01, "beta": 0.1, "max_steps": 3, "save_strategy": "no", "threads": 1,
    "seed": 3, "adam_epsilon": 1e-3,  # the usual 1e-8 makes a whole step of a gradient that is nothing but rounding
}  # fmt: skip
MEASURED = {"eval_limit": 5, "eval_k": 2}  # 3 problems for one process, 2 for the other
SAVED = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}
JOBS: dict[str, dict[str, Any]] = {
    "whole": {**MEASURED, **SAVED, "eval_every_tokens": 600},
    "unpacked": {"packed_tokens": 0},
    "lora": {**MEASURED, **SAVED, "lora_r": 4},
    "ref": {"ib_policy": "ref"},
    "accumulated": {
        "num_iterations": 2, "rows_per_forward": 12, "gradient_checkpointing": True, "learning_rate": 0.001,
    },
    "bf16": {**MEASURED, "bf16": True},
}  # fmt: skip
PROBE = {
    "num_generations": 12, "max_completion_length": 24, "max_steps": 2, "learning_rate": 1e-2, "beta": 0.1,
    "temperature": 1.0, "lr_scheduler_type": "constant", "bf16": False,
}  # fmt: skip
HELD = {"ddp": 1.0, "fsdp2": 0.5, "zero2": 1.0, "zero3": 0.5}  # the share of the weights that a process holds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    make_tiny_model(folder / "model")
    (folder / "more_a.py").write_text("from helpers.on_cpus import more_a as reward\n")
    rows = [{"question": "abc"[i % 3] + "defg"[i % 4] + "hij"[i % 3], "answer": "-"} for i in range(12)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(place: Path, name: str) -> dict[str, Any]:
    own = {**SETTINGS, **JOBS[name], "model": str(place / "model"), "data": str(place / "data.jsonl")}
    return {**own, "eval_data": str(place / "data.jsonl")} if "eval_k" in own else own


def jobs(place: Path, mode: str, processes: int) -> list[on_cpus.Job]:
    """All of `JOBS`, and a trainer with a probe."""
    trained = [{"name": n, "settings": settings(place, n), "output": str(place / mode / n)} for n in JOBS]
    options = {**PROBE, "per_device_train_batch_size": 48 // processes}
    probe = {"name": "probe", "model": str(place / "model"), "output": str(place / mode / "probe"), "options": options}
    return [*trained, probe]


@pytest.fixture(scope="module")
def one(place: Path) -> dict[str, Any]:
    """The results of one process, by job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(place), *sys.path]))
        patch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
        return {job["name"]: on_cpus.run_job(job) for job in jobs(place, "one", 1)}


def same(found: Any, wanted: Any, within: float = 1e-6) -> None:
    """Asserts that rows of logged numbers agree."""
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for a, b in zip(found, wanted, strict=True):
        for name in b:
            if name != "sampling/logp_gap_max":
                np.testing.assert_allclose(a[name], b[name], within, within, err_msg=f"{name}, step {a['step']}")


def same_weights(found: Path, wanted: Path) -> None:
    """Asserts that saved weights agree."""
    ours, theirs = load_file(found), load_file(wanted)
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, rtol=0, err_msg=name)


@pytest.mark.parametrize("mode", on_cpus.MODES)
def test_two_processes_train_as_one(place: Path, one: dict[str, Any], mode: str, capsys: Any) -> None:
    if mode.startswith("zero") and not on_cpus.HAS_DEEPSPEED:
        pytest.skip(on_cpus.NO_DEEPSPEED)
    here, there = place / mode, place / "one"
    to_die = {"name": "killed", "settings": settings(place, "whole"), "output": str(here / "killed"), "die_at": 2}
    ranks = on_cpus.run_jobs(place, mode, [*jobs(place, mode, 2), to_die], expect=1)
    assert ranks[0]["whole"]["rows"] == ranks[1]["whole"]["rows"]
    two = ranks[0]
    assert two["whole"]["held"] == pytest.approx([HELD[mode]] * 3, abs=0.1)
    for name, result in one.items():
        assert "error" not in result, result
        assert "error" not in two[name], two[name]

    for row in (*two["accumulated"]["rows"], *one["accumulated"]["rows"]):
        row.pop("kl", None)  # TRL's mean of the means over micro-batches, which hold other rows here and there
    for name in ("whole", "unpacked", "lora", "ref", "accumulated"):
        same(two[name]["rows"], one[name]["rows"])
        assert max(row.get("sampling/logp_gap_max", 0.0) for row in two[name]["rows"]) < 1e-4
    # bfloat16 rounds differently where weights are bfloat16 and where only the arithmetic is: steps, not digits.
    assert [row["step"] for row in two["bf16"]["rows"]] == [1, 2, 3]
    assert max(row["sampling/logp_gap_max"] for row in two["bf16"]["rows"]) < 0.5
    assert two["bf16"]["rows"][0]["loss"] == pytest.approx(one["bf16"]["rows"][0]["loss"], abs=0.05)

    for name in ("whole", "lora"):
        assert (two[name]["before"], two[name]["after"]) == (one[name]["before"], one[name]["after"])
    evals = [(folder / "whole" / "evals.jsonl").read_text().splitlines() for folder in (here, there)]
    assert len(evals[0]) >= 3  # before, on the way, after
    for a, b in zip(*evals, strict=True):
        assert {k: v for k, v in json.loads(a).items() if k != "seconds"} == {
            k: v for k, v in json.loads(b).items() if k != "seconds"
        }
    trees = sorted(p.name for p in (here / "whole" / "trees").iterdir())
    assert trees == ["step_000001_rank0.jsonl.gz", "step_000001_rank1.jsonl.gz"]

    same_weights(here / "whole" / "model" / "model.safetensors", there / "whole" / "model" / "model.safetensors")
    adapter = Path("lora", "model", "adapter_model.safetensors")
    same_weights(here / adapter, there / adapter)
    for step in (1, 2, 3):
        saved = Path("whole", "checkpoints", f"checkpoint-{step}", "model.safetensors")
        same_weights(here / saved, there / saved)

    for rank in ranks:
        assert rank["probe"]["ids"] == one["probe"]["ids"]
        same(rank["probe"]["probes"], one["probe"]["probes"])
    assert len(one["probe"]["probes"]) == 3

    # Both processes were killed after the second step, when its checkpoint had not been written.
    assert "killed" not in two
    to_go_on = {"name": "killed", "output": str(here / "killed"), "resume": True}
    shutil.copytree(here / "whole", here / "unsaved")
    shutil.rmtree(here / "unsaved" / "model")  # as if it had been killed while it saved the model
    (here / "unsaved" / "eval.json").write_text(json.dumps({"before": two["whole"]["before"]}))
    logged = (here / "unsaved" / "metrics.jsonl").read_text()
    to_save = {"name": "command", "output": str(here / "unsaved")}
    ranks = on_cpus.run_jobs(place, mode, [to_go_on, to_save])
    assert "error" not in ranks[0]["killed"], ranks[0]["killed"]
    assert [row["step"] for row in ranks[0]["killed"]["rows"]] == [2, 3]
    same(ranks[0]["killed"]["rows"], one["whole"]["rows"][1:])
    assert [rank["command"] for rank in ranks] == [{"code": 0}] * 2
    assert (here / "unsaved" / "metrics.jsonl").read_text() == logged  # nothing was left to train
    for folder in (here / "killed", here / "unsaved"):
        results = json.loads((folder / "eval.json").read_text())
        assert (results["before"], results["after"]) == (one["whole"]["before"], one["whole"]["after"])
        same_weights(folder / "model" / "model.safetensors", there / "whole" / "model" / "model.safetensors")

    measured = []
    for folder in (here, there):
        words = ["--model", folder / "whole" / "checkpoints", "--data", place / "data.jsonl", "--limit", 3]
        words += ["--verifier", "more_a:reward", "--max-completion-length", 24, "--json"]
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(place))
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            assert main(["diagnose", *map(str, words)]) == 0, capsys.readouterr().err
        *rows, _ = map(json.loads, capsys.readouterr().out.splitlines())  # a checkpoint a line, and the verdict
        measured.append(rows)
    assert len(measured[0]) == 3
    for a, b in zip(*measured, strict=True):
        for name in ("entropy", "ib_score", "cov_eta"):
            assert a[name] == pytest.approx(b[name], abs=1e-5)
        assert (a["avg_rate"], a["generated_tokens"]) == (b["avg_rate"], b["generated_tokens"])


def test_fsdp_that_accelerate_ignores_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings(place, "unpacked")))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run"), "--quiet"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith("error: FSDP was asked for, but accelerate ignores it on a CPU and without a launcher")
    assert not (tmp_path / "run" / "config.yaml").exists()


def trainer(fsdp: Any = None, zero: Any = None, **args: Any) -> Any:
    """What `check_sharding` looks at."""
    state = SimpleNamespace(fsdp_plugin=fsdp, deepspeed_plugin=zero)
    return SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=1, state=state),
        is_fsdp_enabled=fsdp is not None,
        args=SimpleNamespace(fsdp_plugin_args=None, ds3_gather_for_generation=True, **args),
    )


def zero(stage: int, **options: Any) -> Any:
    return SimpleNamespace(zero_stage=stage, deepspeed_config={"zero_optimization": options})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (trainer(SimpleNamespace(fsdp_version=1)), "under FSDP1: set fsdp_version: 2"),
        (
            trainer(SimpleNamespace(fsdp_version=2, state_dict_type=SimpleNamespace(name="SHARDED_STATE_DICT"))),
            "SHARDED_STATE_DICT no trained model would be saved, .* set fsdp_state_dict_type: FULL_STATE_DICT",
        ),
        (trainer(zero=zero(3)), "with ZeRO-3 no trained model .* set zero3_save_16bit_model: true"),
    ],
)
def test_what_would_leave_no_model_is_refused(made: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sharding(made)


def test_what_leaves_a_model_is_not_refused() -> None:
    check_sharding(trainer())
    check_sharding(trainer(zero=zero(2)))
    check_sharding(trainer(zero=zero(3, stage3_gather_16bit_weights_on_model_save=True)))
    full = SimpleNamespace(fsdp_version=2, state_dict_type=SimpleNamespace(name="FULL_STATE_DICT"))
    check_sharding(trainer(full))
    made = trainer(zero=zero(3, stage3_gather_16bit_weights_on_model_save=True))
    made.args.ds3_gather_for_generation = False
    with pytest.raises(ConfigError, match="leave ds3_gather_for_generation true"):
        check_sharding(made)
