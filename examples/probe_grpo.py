"""Cov(η1, η2), IB-Score and Eff-Rate over a plain TRL GRPO run of the embedded model on the embedded task.

    python examples/probe_grpo.py [--steps 60] [--plain]

`--plain` leaves the callback out: the losses are the same to the last bit, and the time says what the probes cost.
"""

import argparse
import time

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from ibtpo import IBScoreCallback, load_model, load_problems
from ibtpo.verify.walk import walk_reward

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--every", type=int, default=10)
parser.add_argument("--plain", action="store_true")
options = parser.parse_args()

model, tokenizer = load_model("nano")
problems = load_problems("walk:train", limit=1000)
trainer = GRPOTrainer(
    model=model,
    reward_funcs=walk_reward,
    args=GRPOConfig(
        output_dir="runs/probe-grpo", max_steps=options.steps, per_device_train_batch_size=64, num_generations=8,
        max_completion_length=48, learning_rate=2e-4, lr_scheduler_type="constant", logging_steps=1, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
    ),
    train_dataset=Dataset.from_list([{"prompt": p.prompt, **p.columns} for p in problems]),
    processing_class=tokenizer,
)  # fmt: skip
if not options.plain:
    trainer.add_callback(
        IBScoreCallback(
            trainer, "walk:test", every=options.every, max_time_share=0.2, trees_dir="runs/probe-grpo/probes"
        )
    )
began = time.perf_counter()
trainer.train()
seconds = time.perf_counter() - began

names = ("avg_rate", "eff_rate", "cov_eta", "ib_score", "entropy", "seconds", "time_share")
print("step  " + "  ".join(f"{name:>10}" for name in names))
for row in trainer.state.log_history:
    if "ibtpo/probe/seconds" in row:
        print(f"{row['step']:>4}  " + "  ".join(f"{row.get('ibtpo/probe/' + n, float('nan')):10.3f}" for n in names))
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
print(f"{options.steps} steps in {seconds:.1f} s; the sum of all losses is {sum(losses)!r}")
