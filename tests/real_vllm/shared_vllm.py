"""Trains two steps with TRL's colocated vLLM and writes what came of it: python shared_vllm.py FOLDER PARALLEL."""

import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from helpers.on_cpus import allow_on_cpu, share_held

allow_on_cpu()

from ibtpo.engines.models import load_model  # noqa: E402
from ibtpo.tasks.problems import load_problems  # noqa: E402
from ibtpo.tasks.prompts import trl_prompt  # noqa: E402
from ibtpo.training.config import IBTPOConfig  # noqa: E402
from ibtpo.training.processes import process_count  # noqa: E402
from ibtpo.training.trainer import IBTPOTrainer  # noqa: E402


def odd_length(prompts, completions, completion_ids, **columns):
    return [float(len(ids) % 2) for ids in completion_ids]


class Watch(TrainerCallback):
    """Keeps the losses, and the share of the weights that this process holds between steps."""

    def __init__(self):
        self.losses, self.held = [], 1.0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.held = share_held(model)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


folder, parallel = Path(sys.argv[1]), int(sys.argv[2])
model, tokenizer = load_model("nano")
rows = [{"prompt": trl_prompt(p, tokenizer, None), "id": p.id} for p in load_problems("walk:train", limit=8)]
config = IBTPOConfig(
    output_dir=str(folder), use_vllm=True, vllm_mode="colocate", vllm_tensor_parallel_size=parallel,
    per_device_train_batch_size=32 // process_count(), num_generations=8, max_completion_length=40, max_steps=2,
    learning_rate=3e-3, beta=0.0, lr_scheduler_type="constant", report_to="none", save_strategy="no",
    disable_tqdm=True, gradient_checkpointing=False, bf16=False, logging_steps=1, save_trees_every=0,
)  # fmt: skip
watch = Watch()
trainer = IBTPOTrainer(
    model, odd_length, config, Dataset.from_list(rows), processing_class=tokenizer, callbacks=[watch]
)  # fmt: skip
trainer.train()
trees = {tree.id: [tree.completion_ids(i) for i in range(len(tree.leaves))] for tree in trainer.trees}
gap = max(row["sampling/logp_gap_max"] for row in trainer.state.log_history if "sampling/logp_gap_max" in row)
found = {"losses": watch.losses, "held": watch.held, "trees": trees, "gap": gap, "processes": process_count()}
(folder / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(found))
