"""Times the update, forward and backward of TRL's GRPO loss: shared prefixes computed once, against TRL's own way.

    python benchmarks/update.py --model nano
    python benchmarks/update.py --model smollm2-135m --trees experiments/results/smollm2-gsm8k/trees.jsonl.gz

A micro-batch is `--rows` trees of G = 12 trajectories with prompts of at least 100 tokens. After a warm-up, both ways
are timed on the same trees, taking turns in who goes first, and medians are reported. Time is the processor time of
one thread, which other work on the machine disturbs less. Peak memory is what one update in a fresh process takes at
most, beyond what the process held before. For the embedded model no trees with long prompts are stored, so they are
grown first.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from harness import Row, machine, row, write

import ibtpo
from ibtpo.credit import CreditOptions, path_advantages, token_advantages
from ibtpo.engines.models import decoder, resolve_model
from ibtpo.training.config import IBTPOConfig
from ibtpo.training.packed import PackedForward, read_rows
from ibtpo.training.trainer import IBTPOTrainer
from ibtpo.training.trie import lay_out
from ibtpo.tree import ReasoningTree, read_trees

TARGET = 0.8  # of the best speed-up possible, which is all tokens over distinct tokens
BEFORE = 12  # problems put before the one that is asked, to make a prompt long


def nano_trees(count: int) -> Iterator[ReasoningTree]:
    """Grows trees with the embedded model on its own task, after a dozen other problems that make the prompt long."""
    model, tokenizer = ibtpo.load_model("nano")
    problems = ibtpo.load_problems("walk:test", limit=BEFORE + count)
    before = "".join(p.prompt for p in problems[:BEFORE])
    engine = ibtpo.TransformersEngine(model, eos_token_ids=[tokenizer.eos_token_id])
    options = ibtpo.SearchOptions(max_completion_length=128)
    search = ibtpo.TreeSearch(engine, ibtpo.VerifierPool("walk"), decoder(tokenizer), options)
    for problem in problems[BEFORE:]:
        text, ids = ibtpo.encode_prompt(replace(problem, prompt=before + problem.prompt), tokenizer)
        yield asyncio.run(search.grow(ibtpo.Prompt(problem.id, tuple(ids), text, problem.columns)))


def stored_trees(path: str, count: int) -> Iterator[ReasoningTree]:
    """The first `count` trees of a file that have 12 leaves and a prompt of at least 100 tokens."""
    found = 0
    for tree in read_trees(path):
        if found < count and len(tree.prompt_ids) >= 100 and len(tree.leaves) == 12:
            found += 1
            yield tree
    if found < count:
        raise SystemExit(f"{path} holds {found} trees with 12 leaves and prompts of 100 tokens; {count} are needed")


def batch(trees: list[ReasoningTree], pad: int) -> dict[str, torch.Tensor]:
    """The trees as a micro-batch that TRL's loss takes: prompts padded on the left, completions on the right."""
    rows = [(t, i) for t in trees for i in range(len(t.leaves))]
    prompts = [list(t.prompt_ids) for t, _ in rows]
    completions = [t.completion_ids(i) for t, i in rows]
    advantages = [a for t in trees for a in token_advantages(t, path_advantages(t, CreditOptions()))]
    p, c = max(map(len, prompts)), max(map(len, completions))
    result = {
        "prompt_ids": torch.tensor([[pad] * (p - len(x)) + x for x in prompts]),
        "prompt_mask": torch.tensor([[0] * (p - len(x)) + [1] * len(x) for x in prompts]),
        "completion_ids": torch.tensor([x + [pad] * (c - len(x)) for x in completions]),
        "completion_mask": torch.tensor([[1] * len(x) + [0] * (c - len(x)) for x in completions]),
        "advantages": torch.zeros(len(rows), c),
    }
    for i, a in enumerate(advantages):
        result["advantages"][i, : len(a)] = torch.from_numpy(np.asarray(a, dtype=np.float32))
    return result


def make_trainer(model: str, checkpointing: bool) -> IBTPOTrainer:
    """A trainer whose loss can be called directly; `checkpointing` recomputes activations in the backward."""
    args = IBTPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=12,
        beta=0.0,
        report_to="none",
        bf16=False,
        gradient_checkpointing=checkpointing,
    )
    trainer = IBTPOTrainer(resolve_model(model), "walk", args, Dataset.from_list([{"prompt": "a"}] * 12))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def update(trainer: IBTPOTrainer, inputs: dict[str, torch.Tensor], packed: PackedForward | None) -> tuple[float, float]:
    """Runs one forward and backward; returns seconds of processor time, and the loss.

    packed: computes shared prefixes once; None for TRL's own way.
    """
    trainer._packed = packed
    trainer.model.zero_grad()
    begin = time.process_time()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return time.process_time() - begin, loss.item()


def trie_seconds(inputs: dict[str, torch.Tensor], packed: PackedForward, model: Any) -> float:
    """The seconds of an update that go into the trie: reading the rows, splitting them and laying them out."""
    begin = time.process_time()
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    rows, starts = read_rows(ids, mask, inputs["completion_ids"].shape[1])
    order = sorted(range(len(rows)), key=lambda i: rows[i].tolist())
    rows = [rows[i] for i in order]
    for part in packed.plan(model, rows, len(rows), ids.shape[1]) or ():
        lay_out([rows[i] for i in part], [starts[order[i]] for i in part])
    return time.process_time() - begin


def token_counts(inputs: dict[str, torch.Tensor]) -> tuple[int, int]:
    """The number of all tokens of the trajectories, and of the distinct (prefix, token) pairs among them."""
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    rows, _ = read_rows(ids, mask, inputs["completion_ids"].shape[1])
    distinct = {row[:n].tobytes() for row in rows for n in range(1, len(row) + 1)}
    return sum(map(len, rows)), len(distinct)


def memory(flag: str) -> int:
    """A figure of this process in MB, as Linux names it: VmRSS is memory held now, VmHWM the most so far."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(flag)) // 1024


def peak(trainer: IBTPOTrainer, inputs: dict[str, torch.Tensor], packed: PackedForward | None) -> int:
    """The MB that one update takes at its peak, beyond what is held before, without the check of the first use."""
    if packed:
        packed.checked.add(trainer.model)
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is held now
    before = memory("VmRSS")
    update(trainer, inputs, packed)
    return memory("VmHWM") - before


def peak_of(way: str, options: argparse.Namespace, trees: Path) -> int:
    """The MB that one update takes at its peak, measured in a fresh process. way: "ours" or "theirs"."""
    command = [sys.executable, __file__, "--model", options.model, "--trees", str(trees), "--rows", str(options.rows)]
    if options.gradient_checkpointing:
        command.append("--gradient-checkpointing")
    done = subprocess.run([*command, "--peak", way], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split()[-1])


def main() -> None:
    """Measures both ways, and writes one row for time and one for peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--trees", help="stored trees (.jsonl or .jsonl.gz); default: grown by the embedded model")
    parser.add_argument("--runs", type=int, default=5, help="paired repetitions, each with other trees")
    parser.add_argument("--rows", type=int, default=1, help="trees in a micro-batch")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--peak", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()

    count = options.rows if options.peak else options.rows * (options.runs + 1)
    if options.trees is None and options.model != "nano":
        parser.error("--trees is needed for this model")
    trees = list(stored_trees(options.trees, count) if options.trees else nano_trees(count))
    if not options.peak:  # Memory comes first, while this process itself holds little.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trees.jsonl"
            ibtpo.write_trees(file, trees[: options.rows])
            peaks = {way: peak_of(way, options, file) for way in ("ours", "theirs")}
    trainer = make_trainer(options.model, options.gradient_checkpointing)
    packed = PackedForward(trainer.args.packed_tokens, trainer.accelerator)
    pad = trainer.processing_class.pad_token_id
    batches = [batch(trees[i : i + options.rows], pad) for i in range(0, count, options.rows)]
    if options.peak:
        print(peak(trainer, batches[0], packed if options.peak == "ours" else None))
        return

    update(trainer, batches[0], packed)
    update(trainer, batches[0], None)
    ours, theirs, ideal, positions, trie = [], [], [], [], []
    for i, inputs in enumerate(batches[1:]):
        seconds = {}
        for way in ("ours", "theirs") if i % 2 else ("theirs", "ours"):
            seconds[way], loss = update(trainer, inputs, packed if way == "ours" else None)
            seconds[f"loss of {way}"] = loss
        assert abs(seconds["loss of ours"] - seconds["loss of theirs"]) < 1e-4, seconds
        ours.append(seconds["ours"])
        theirs.append(seconds["theirs"])
        everything, distinct = token_counts(inputs)
        ideal.append(everything / distinct)
        positions.append(packed.computed)
        trie.append(trie_seconds(inputs, packed, trainer.model) / seconds["ours"])
    if packed.disabled:
        raise SystemExit(f"the shared-prefix update is off: {packed.disabled}")
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    share = median(r / i for r, i in zip(ratios, ideal, strict=True))
    name = f"update, {options.model}, {options.rows} tree(s) of 12"
    if options.gradient_checkpointing:
        name += ", gradient checkpointing"
    peer = f"TRL {trl.__version__}, every trajectory"
    note = (
        f"{100 * share:.0f} % of all tokens / unique tokens ({median(ideal):.2f}); {median(positions):.2f} of the "
        f"padded positions computed; {100 * median(trie):.1f} % of the time for the trie; processor time of one thread"
    )
    sizes = (float(peaks["ours"]), float(peaks["theirs"]))
    rows = [
        row(name, peer, ours, theirs, "s", TARGET * median(ideal), more_is_better=False, note=note),
        Row(f"{name}: peak memory", peer, *sizes, "MB", sizes[1] / sizes[0], 1.0, 1, machine()),
    ]
    write(rows)
    for r in rows:
        print(r)


if __name__ == "__main__":
    main()
