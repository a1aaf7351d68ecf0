"""Cov(η1, η2), IB-Score and Eff-Rate over a plain TRL GRPO run of the embedded model on the embedded task.

    python examples/probe_grpo.py [--steps 60] [--plain]

It prints the probes' numbers, what changed between the first and the last, and what the probes cost; it keeps every
logged row in OUTPUT/log.jsonl and the probes' trees in OUTPUT/probes, for `ibtpo view` and `ibtpo score`. `--plain`
leaves the callback out: the losses are the same to the last bit.
"""

import argparse
import json
import time
from pathlib import Path

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from ibtpo import IBScoreCallback, load_model, load_problems
from ibtpo.compare.checkpoints import verdict
from ibtpo.metrics import tree_record
from ibtpo.tree import read_trees
from ibtpo.verify.walk import walk_reward

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--every", type=int, default=10)
parser.add_argument("--prompts", type=int, default=16, help="how many problems are probed")
parser.add_argument("--share", type=float, default=0.2, help="of the time, for the probes")
parser.add_argument("--plain", action="store_true", help="no probes")
parser.add_argument("--output", type=Path, default=Path("runs/probe-grpo"))
options = parser.parse_args()

model, tokenizer = load_model("nano")
problems = load_problems("walk:train", limit=1000)
trainer = GRPOTrainer(
    model=model,
    reward_funcs=walk_reward,
    args=GRPOConfig(
        output_dir=str(options.output), max_steps=options.steps, per_device_train_batch_size=64, num_generations=8,
        max_completion_length=48, learning_rate=4e-4, lr_scheduler_type="constant", logging_steps=1, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
    ),
    train_dataset=Dataset.from_list([{"prompt": p.prompt, **p.columns} for p in problems]),
    processing_class=tokenizer,
)  # fmt: skip
trainer.remove_callback(PrinterCallback)
if not options.plain:
    probe = IBScoreCallback(
        trainer, "walk:test", every=options.every, num_prompts=options.prompts, max_time_share=options.share,
        trees_dir=options.output / "probes",
    )  # fmt: skip
    trainer.add_callback(probe)
began = time.perf_counter()
trainer.train()
seconds = time.perf_counter() - began

options.output.mkdir(parents=True, exist_ok=True)
history = trainer.state.log_history
(options.output / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
losses = [row["loss"] for row in history if "loss" in row]
if not options.plain:
    names = ("avg_rate", "eff_rate", "cov_eta", "ib_score", "entropy", "seconds", "time_share")
    probed = [row for row in history if "ibtpo/probe/seconds" in row]
    print("step  " + "  ".join(f"{name:>10}" for name in names))
    for row in probed:
        print(f"{row['step']:>4}  " + "  ".join(f"{row.get('ibtpo/probe/' + n, float('nan')):10.3f}" for n in names))
    files = [options.output / "probes" / f"step_{probed[i]['step']:06d}.jsonl.gz" for i in (0, -1)]
    first, last = ([tree_record(tree, probe.search.score) for tree in read_trees(file)] for file in files)
    print(*verdict(first, last), sep="\n")
    print(f"{len(probed)} probes took {probe.spent:.1f} s, {100 * probe.spent / seconds:.1f} % of the time")
print(f"{options.steps} steps in {seconds:.1f} s; the sum of all losses is {sum(losses)!r}")
print(f"log: {options.output / 'log.jsonl'}")
