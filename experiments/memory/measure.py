"""Measures what a parameter costs in each way of spreading a run, beside the memory table of `ibtpo train --dry-run`.

    python measure.py OUTPUT_FOLDER [--modes one ddp fsdp2 zero2 zero3]

Two processes on a CPU over gloo train two models that differ in their width only, with a reference model, for two
steps, with so few answers that activations hardly count. The difference of their peaks in the second step (the
high-water mark of a process's resident memory), divided by the difference of their parameters, is what a parameter
costs, whatever the program itself takes. It is compared with the table's items that depend on the weights; activations
and the keys and values of a few short answers are left out. On a CPU the engine computes with a packed copy of the
weights, which it has on no GPU, so that copy is added to the table. The first step is left out, since main memory then
still holds what was loaded before it was spread. The arithmetic is float32. Of DeepSpeed's bucket, 5e8 gradients on a
GPU, main memory holds only what was written into it.

glibc serves tensors of some megabytes from its heap once it has seen a few of them freed, and such a heap keeps what
was freed: with FSDP2, whose gathered weights come and go, that alone shows 8 bytes a parameter more than are in use. So
the processes run with a fixed MALLOC_MMAP_THRESHOLD_, which gives every tensor pages of its own.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import on_cpus  # noqa: E402

WIDTHS = 128, 1024
SETTINGS = {
    "data": "walk:train", "eval_data": "none", "verifier": "walk", "prompts_per_step": 2, "num_generations": 4,
    "tree": "2,3,1,1", "max_completion_length": 8, "temperature": 1.0, "learning_rate": 1e-5, "max_steps": 2,
    "save_strategy": "no", "threads": 1, "packed_tokens": 0, "save_trees_every": 0, "gradient_checkpointing": True,
    "beta": 0.1,
}  # fmt: skip


def make_model(folder: Path, width: int) -> int:
    """Writes a random model with the embedded model's tokenizer; returns its number of parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ibtpo import load_model

    _, tokenizer = load_model("nano")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def peak(place: Path, mode: str, model: Path) -> float:
    """The highest peak of the processes of one run, in bytes."""
    settings = {**SETTINGS, "model": str(model)}
    folder = place / f"{mode}-{model.name}"
    folder.mkdir(parents=True)
    job = {"name": "train", "settings": settings, "output": str(folder / "run")}
    (folder / "jobs.json").write_text(json.dumps([job]))
    start = [sys.executable] if mode == "one" else on_cpus.launcher(mode)
    env = on_cpus.environment("ddp" if mode == "one" else mode, place)
    env |= {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": str(2**18)}
    env |= {"RANK": "0"} if mode == "one" else {}
    done = subprocess.run(
        [*start, __file__, "--child", str(folder)], cwd=place, env=env, capture_output=True, text=True, timeout=900
    )
    marks = [float(file.read_text()) for file in folder.glob("peak*.txt")]
    if len(marks) != (1 if mode == "one" else 2):
        raise SystemExit(f"{mode}: {done.stderr[-3000:]}")
    return max(marks)


def run(folder: Path) -> None:
    """What each process does: trains, and writes down its peak."""
    rank = os.environ["RANK"]
    alone = "WORLD_SIZE" not in os.environ
    if alone:
        del os.environ["RANK"]
    on_cpus.allow_on_cpu()
    marks: list[int] = []  # the peak of each step
    share_held = on_cpus.share_held

    def at_step_end(model: Any) -> float:
        marks.append(high_water())
        Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
        return share_held(model)

    on_cpus.share_held = at_step_end
    (job,) = json.loads((folder / "jobs.json").read_text())
    result = on_cpus.run_job(job)
    if "error" in result:
        raise SystemExit(result["traceback"])
    (folder / f"peak{rank}.txt").write_text(str(marks[1]))


def high_water() -> int:
    """The high-water mark of this process's resident memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def predicted(mode: str, models: dict[int, Path]) -> float:
    """Bytes a parameter by the table: the difference of the two models' peaks over that of their parameters."""
    from transformers import AutoConfig

    from ibtpo.training.memory import Item, Layout, items_of, shape_of
    from ibtpo.training.memory import peak as table_peak

    config = SimpleNamespace(
        bf16=False, fp16=False, beta=0.1, max_completion_length=8,
        per_device_train_batch_size=4, gradient_checkpointing=True, use_vllm=False, max_in_flight=64,
        generation_batch_size=8, kv_memory_gb=0.0,
    )  # fmt: skip
    layout = Layout() if mode == "one" else Layout(2, {"ddp": "none"}.get(mode, mode))
    shapes = [shape_of(AutoConfig.from_pretrained(models[width])) for width in WIDTHS]
    copy = [Item("the engine's copy", 4 * shape.parameters, "on a CPU", "sampling") for shape in shapes]
    tables = [items_of(shape, layout, config, "float32", 1e12, half=4) for shape in shapes]
    of_weights = [
        [
            replace(i, size=min(i.size, 4 * shape.trainable)) if i.what == "bucket" else i
            for i in table
            if i.what not in ("activations", "keys and values")
        ]
        for shape, table in zip(shapes, tables, strict=True)
    ]
    low, high = (table_peak([*items, extra]) for items, extra in zip(of_weights, copy, strict=True))
    return (high - low) / (shapes[1].parameters - shapes[0].parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--modes", nargs="+", default=["one", *on_cpus.MODES])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run(args.output)
        return
    place = (args.output / "run").resolve()
    place.mkdir(parents=True)
    models = {width: place / f"width{width}" for width in WIDTHS}
    counts = [make_model(folder, width) for width, folder in models.items()]
    rows: list[dict[str, Any]] = []
    for mode in args.modes:
        low, high = (peak(place, mode, models[width]) for width in WIDTHS)
        row = {
            "mode": mode, "measured": (high - low) / (counts[1] - counts[0]), "predicted": predicted(mode, models),
            "peaks_gb": [low / 1e9, high / 1e9],
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
        write(args.output, rows, counts)


def write(folder: Path, rows: list[dict[str, Any]], counts: list[int]) -> None:
    """Writes summary.json and table.md."""
    from ibtpo.storage.env import collect_env

    (folder / "summary.json").write_text(
        json.dumps({"parameters": counts, "rows": rows, "env": collect_env()}, indent=1) + "\n"
    )
    lines = [
        f"Two processes over gloo on a CPU, float32, models of {counts[0] / 1e6:.1f} and {counts[1] / 1e6:.1f} million "
        "parameters with a reference model each: the difference of their peaks over that of their parameters.",
        "",
        "| run | bytes a parameter and process, measured | by the table of the dry run |",
        "| --- | ---: | ---: |",
    ]
    names = {"one": "one process", "ddp": "DDP", "fsdp2": "FSDP2", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
    lines += [f"| {names[r['mode']]} | {r['measured']:.1f} | {r['predicted']:.1f} |" for r in rows]
    (folder / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
