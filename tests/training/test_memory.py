"""The memory table of a dry run: hand-computed sizes, what is refused, and the accelerate files it reads."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ibtpo.cli import main
from ibtpo.errors import ConfigError
from ibtpo.storage.recipes import accelerate_files
from ibtpo.training.memory import (
    CONTEXT,
    Layout,
    Shape,
    config_of,
    items_of,
    layout_of,
    peak,
    refuse_what_cannot_fit,
    shape_of,
    static,
)

P = 8e9
SHAPE = Shape(int(P), int(P), largest=10**8, layers=10, hidden=100, inner=300, vocabulary=1000, kv=500)
CONFIG = SimpleNamespace(
    beta=0.1, bf16=True, fp16=False, max_completion_length=488, per_device_train_batch_size=2,
    gradient_checkpointing=True, use_vllm=False,
    max_in_flight=4, generation_batch_size=64, kv_memory_gb=1.0, vllm_mode="colocate",
    vllm_gpu_memory_utilization=0.5, vllm_tensor_parallel_size=1, vllm_max_model_length=None,
    vllm_enable_sleep_mode=False,
)  # fmt: skip


def sizes(layout: Layout, config: SimpleNamespace = CONFIG, shape: Shape = SHAPE, dtype: str = "float32") -> dict:
    return {item.what: item.size for item in items_of(shape, layout, config, dtype, 80e9)}


@pytest.mark.parametrize(
    ("layout", "weights", "optimizer", "gradients", "reference"),
    [
        (Layout(), 4 * P, 8 * P, 4 * P, 4 * P),
        (Layout(8), 4 * P, 8 * P, 4 * P, 4 * P),
        (Layout(8, "fsdp2"), P / 2, P, P / 2, P / 2),
        (Layout(8, "zero2"), 2 * P, 12 * P / 8, P / 4, 2 * P),
        (Layout(8, "zero3"), P / 4, 12 * P / 8, P / 4, P / 4),
    ],
)
def test_what_the_parameters_take(layout: Layout, weights: float, optimizer: float, gradients: float, reference: float):
    found = sizes(layout)
    assert [found[k] for k in ("weights", "optimizer", "gradients", "reference model")] == [
        weights, optimizer, gradients, reference
    ]  # fmt: skip
    assert found.get("reducer") == (4 * P if layout == Layout(8) else None)
    gathered = {"fsdp2": 4e8, "zero3": 2 * min(P, 1e9)}
    assert found.get("gathered layers") == gathered.get(layout.sharding)
    bucket = {"zero2": (2 * 5e8, 2 * 5e8 * 7 / 8), "zero3": (2 * 5e8, 2 * 5e8)}
    assert (found.get("bucket"), found.get("reduction")) == bucket.get(layout.sharding, (None, None))
    assert found.get("gathered weights") == (2 * P if layout.shards_weights else None)


def test_what_deepspeed_takes_of_a_small_model_in_float32() -> None:
    small = replace(SHAPE, parameters=10**6, trainable=10**6)
    found = {item.what: item for item in items_of(small, Layout(2, "zero3"), CONFIG, "float32", 80e9, half=4)}
    sizes = {name: found[name].size for name in ("weights", "optimizer", "gradients", "bucket", "reduction")}
    # Float32 weights of its own also where the model's are float32, and its bucket whole even if the model is smaller.
    assert sizes == {"weights": 2e6, "optimizer": 6e6, "gradients": 2e6, "bucket": 2e9, "reduction": 4e6}
    assert found["gathered layers"].size == 4e6
    assert [name for name, item in found.items() if item.when == "always"] == [
        "weights", "optimizer", "gradients", "reference model", "bucket", "CUDA"
    ]  # fmt: skip


def test_what_sampling_and_the_update_take_and_that_they_take_turns() -> None:
    items = items_of(SHAPE, Layout(8), CONFIG, "float32", 80e9)
    found = {item.what: item.size for item in items}
    assert found["keys and values"] == 2 * 500 * 4 * 1000 + 1e9  # 4 answers of 488 + 512 tokens
    # Ten layers' inputs, and of one layer eight vectors of the width and three of the MLP's; logits of 1024 tokens.
    kept = 10 * 100 + 8 * 100 + 3 * 300
    assert found["activations"] == 2 * kept * 2000 + 2 * 4 * 1000 * 1024
    assert sizes(Layout(8), replace_in(CONFIG, gradient_checkpointing=False))["activations"] == (
        2 * 10 * (8 * 100 + 3 * 300) * 2000 + 2 * 4 * 1000 * 1024
    )
    always = 4 * P + 8 * P + 4 * P + 4 * P + CONTEXT  # weights, moments, reducer, reference
    assert static(items) == always + 4 * P
    assert peak(items) == always + max(4 * P + found["activations"], found["keys and values"])


def replace_in(config: SimpleNamespace, **changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(config), **changes})


def test_an_adapter_has_gradients_of_its_own_weights_only_and_no_reference_model() -> None:
    found = sizes(Layout(), shape=replace(SHAPE, trainable=1000), dtype="bfloat16")
    assert (found["weights"], found["gradients"], found["optimizer"]) == (2 * P, 2000, 8000)
    assert "reference model" not in found


def test_vllm_takes_its_share_and_must_hold_weights_and_one_sequence() -> None:
    vllm = replace_in(CONFIG, use_vllm=True)
    items = items_of(SHAPE, Layout(8, "fsdp2"), vllm, "float32", 80e9)
    assert [(i.size, i.when) for i in items if i.what == "vLLM"] == [(40e9, "always")]
    assert not any(i.what in ("keys and values", "gathered weights") for i in items)
    sleeps = items_of(SHAPE, Layout(8, "fsdp2"), replace_in(vllm, vllm_enable_sleep_mode=True), "float32", 80e9)
    assert [i.when for i in sleeps if i.what == "vLLM"] == ["sampling"]
    assert "vLLM" not in sizes(Layout(8), replace_in(vllm, vllm_mode="server"))
    # 16 GB of weights in 16.0005 GB: 500 kB for keys and values, and a sequence of 1000 tokens takes 1 MB.
    tight = replace_in(vllm, vllm_gpu_memory_utilization=0.2, vllm_max_model_length=1000)
    with pytest.raises(ConfigError, match=r"leaves 0\.0 GB beside the weights, and one sequence of 1000 tokens needs"):
        items_of(SHAPE, Layout(8, "fsdp2"), tight, "float32", 80.0025e9)
    assert items_of(SHAPE, Layout(8, "fsdp2"), tight, "float32", 80.0051e9)


def test_a_run_that_no_gpu_can_hold_is_refused_by_what_it_needs_at_any_time() -> None:
    items = items_of(SHAPE, Layout(8), CONFIG, "float32", 80e9)
    with pytest.raises(ConfigError, match=r"80 GB cannot hold the 194\.0 GB .* \(optimizer 64\.0, weights 32\.0, "):
        refuse_what_cannot_fit(items, 80e9)
    refuse_what_cannot_fit(items, 194.1e9)  # answers that share nothing, all of the longest, are only shown


def test_the_papers_model_takes_what_its_arithmetic_says() -> None:
    shape = shape_of(config_of("Qwen/Qwen3-8B-Base"))
    assert shape.parameters == 8_190_735_360  # as its page says: 8.2 B, 6.95 B without embeddings
    assert shape.parameters - 2 * 151936 * 4096 == 6_946_075_648
    assert (shape.largest, shape.kv) == (151936 * 4096, 36 * 2 * 8 * 128)  # 147 kB a token in bfloat16
    found = sizes(Layout(8, "fsdp2"), shape=shape)
    kept = sum(found[k] for k in ("weights", "optimizer", "gradients", "reference model"))
    assert kept / 1e9 == pytest.approx(20.5, abs=0.05)


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("distributed_type: MULTI_GPU\nnum_processes: 4\nmixed_precision: bf16\n", Layout(4)),
        ("distributed_type: 'NO'\nnum_processes: 1\n", Layout(1)),
        (
            "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: 2}\n",
            Layout(2, "zero2"),
        ),
    ],
)
def test_accelerate_files_are_read(tmp_path: Path, text: str, layout: Layout) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert layout_of(tmp_path / "a.yaml") == layout


def test_the_shipped_accelerate_files_shard_over_eight_gpus() -> None:
    assert {name: layout_of(name) for name in accelerate_files()} == {
        "fsdp2": Layout(8, "fsdp2"), "zero2": Layout(8, "zero2"), "zero3": Layout(8, "zero3")
    }  # fmt: skip


@pytest.mark.parametrize("count", ["two", "0", "true", "1.5", "[8]"])
def test_a_wrong_number_of_processes_is_told(tmp_path: Path, count: str) -> None:
    (tmp_path / "a.yaml").write_text(f"distributed_type: MULTI_GPU\nnum_processes: {count}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: num_processes must be a number and at least 1, got "):
        layout_of(tmp_path / "a.yaml")


def test_fsdp1_is_refused_and_a_launcher_is_asked_where_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 1}\n")
    with pytest.raises(ConfigError, match="fsdp_version is 1; trees are trained with FSDP2: set fsdp_version: 2"):
        layout_of(tmp_path / "a.yaml")
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert layout_of(None) == Layout(4)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert layout_of(None) == Layout(4, "fsdp2")


def test_the_dry_run_prints_the_table_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "qwen3-8b-dapo", "--dry-run", "--json", "--accelerate"]
    assert main([*words, "fsdp2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["memory_gb"]["vLLM"] == 32.0
    assert plan["peak_memory_gb"] == pytest.approx(sum(plan["memory_gb"].values()), abs=0.01)
    assert main([*words, "fsdp2", "--gpu-memory-gb", "40", "--vllm-gpu-memory-utilization", "0.7"]) == 2
    assert "error: a GPU of 40 GB cannot hold the 50.5 GB that this run needs at any time" in capsys.readouterr().err
    assert main(["train", "qwen3-8b-dapo", "--accelerate", "fsdp2"]) == 2
    assert "--accelerate and --gpu-memory-gb belong to --dry-run" in capsys.readouterr().err
    assert main([*words, "fsdp2", "--gpu-memory-gb", "much"]) == 2
    assert "--gpu-memory-gb must be a number of GB above 0, got 'much'" in capsys.readouterr().err
    assert main(["train", "--dry-run", "--model", "nobody/nothing"]) == 0
    assert "memory: not known, since the configuration of nobody/nothing is not at hand" in capsys.readouterr().out
