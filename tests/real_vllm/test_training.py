"""Training with TRL's `vllm_mode="colocate"`: vLLM in the trainer's process, weights pushed after every update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from ibtpo.engines.models import load_model
from ibtpo.tasks.problems import load_problems
from ibtpo.tasks.prompts import trl_prompt
from ibtpo.training.config import IBTPOConfig
from ibtpo.training.trainer import IBTPOTrainer
from real_vllm.reference import SAMPLING


def odd_length(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
    return [float(len(ids) % 2) for ids in completion_ids]


class Recording(IBTPOTrainer):
    """Keeps, for every generation batch, what sampling and what the trainer thought of the sampled tokens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.gaps: list[float] = []
        self.ratios: list[torch.Tensor] = []
        self.cached: list[int] = []
        super().__init__(*args, **kwargs)

    def _credit(self, output: dict[str, Any]) -> None:
        gap = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs() * output["completion_mask"]
        self.gaps.append(float(gap.max()))
        self.ratios.append(output["importance_sampling_ratio"])
        self.cached.append(self._engine.cached_tokens)
        super()._credit(output)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    torch.manual_seed(0)
    model, tokenizer = load_model("nano")
    rows = [{"prompt": trl_prompt(p, tokenizer, None), "id": p.id} for p in load_problems("walk:train", limit=16)]
    folder = tmp_path_factory.mktemp("run")
    config = IBTPOConfig(
        output_dir=str(folder), use_vllm=True, vllm_mode="colocate", per_device_train_batch_size=32,
        num_generations=8, max_completion_length=60, max_steps=4, learning_rate=3e-3, splitter="tokens:8", beta=0.0,
        temperature=SAMPLING.temperature, lr_scheduler_type="constant", report_to="none", save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False, eval_strategy="steps", eval_steps=4,
        per_device_eval_batch_size=8,
    )  # fmt: skip
    trainer = Recording(
        model, odd_length, config, Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:2]),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    return trainer


def test_every_batch_is_sampled_with_the_weights_of_its_step(trained: Recording) -> None:
    """Stale weights or stale prefixes would show as a gap: the learning rate moves log-probs by far more."""
    print("gaps", trained.gaps)
    assert len(trained.gaps) == 4
    assert max(trained.gaps) < 2e-3
    model, _ = load_model("nano")
    ids = torch.tensor([trained.trees[0].prompt_ids])
    with torch.no_grad():
        trainers = trained.model(ids).logits.log_softmax(-1)
        first = model(ids).logits.log_softmax(-1)
    assert float((trainers - first).abs().max()) > 0.05


def test_importance_ratios_are_one_although_top_p_and_top_k_filter(trained: Recording) -> None:
    """Log-probs renormalised after the filter would make them the mass it keeps, to the power of the length."""
    assert (trained.args.top_p, trained.args.top_k) == (0.95, 20)
    for ratio in trained.ratios:
        assert float((ratio - 1).abs().max()) < 0.02


def test_trees_are_whole_and_branches_reuse_prefixes(trained: Recording) -> None:
    assert len(trained.trees) == 4
    assert all(len(tree.leaves) == 8 for tree in trained.trees)


def test_trls_own_metrics_and_evaluation_run(trained: Recording) -> None:
    history = trained.state.log_history
    gaps = [row["sampling/sampling_logp_difference/max"] for row in history if "ibtpo/avg_rate" in row]
    assert len(gaps) == 4
    assert max(gaps) < 2e-3
    assert any("eval_reward" in row for row in history)


def test_the_command_line_trains_with_vllm(tmp_path: Path) -> None:
    """In a process of its own: vLLM lives in one as long as it does."""
    import os
    import subprocess
    import sys

    distributed = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of this process
    env = {name: value for name, value in os.environ.items() if name not in distributed}
    words = ["train", "--use_vllm", "true", "--max_generated_tokens", "null", "--max_steps", "2", "--eval_limit", "4"]
    words += ["--prompts_per_step", "2", "--eval_k", "1", "--output", str(tmp_path / "run"), "--quiet", "--json"]
    words += ["--limit", "16"]
    done = subprocess.run([sys.executable, "-m", "ibtpo", *words], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "model" / "config.json").is_file()
