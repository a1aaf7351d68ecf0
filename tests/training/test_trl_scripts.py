"""TRL's example scripts, with the two names changed and a tiny model: each trains for three steps with trees."""

import math

import pytest

from ibtpo.training.trainer import IBTPOTrainer

TINY = {
    "max_steps": 3,
    "max_completion_length": 12,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_trees_every": 0,
}

HEAD = """
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

dataset = Dataset.from_list([{"prompt": "ab", "answer": "a"}, {"prompt": "cd", "answer": "c"}])

def accuracy_reward(completions, answer, **kwargs):
    return [float(c.count(a) > 1) for c, a in zip(completions, answer)]

def length_reward(completion_ids, **kwargs):
    return [-len(ids) / 10 for ids in completion_ids]
"""

SCRIPTS = {
    "quickstart": """
trainer = GRPOTrainer(
    model=MODEL, reward_funcs=accuracy_reward, train_dataset=dataset, args=GRPOConfig(output_dir=OUT, **TINY)
)
trainer.train()
""",
    "peft": """
from peft import LoraConfig

trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=accuracy_reward,
    train_dataset=dataset,
    args=GRPOConfig(output_dir=OUT, learning_rate=1e-5, **TINY),
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
)
trainer.train()
assert {n.split(".")[-3] for n, p in trainer.model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
""",
    "conversational": """
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"

def make_conversation(example):
    return {"prompt": [{"role": "system", "content": "fgh"}, {"role": "user", "content": example["prompt"]}]}

def reward(prompts, completions, answer, **kwargs):
    assert prompts[0][0] == {"role": "system", "content": "fgh"}
    return [float(c[0]["content"].count(a)) for c, a in zip(completions, answer)]

trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=reward,
    train_dataset=dataset.map(make_conversation),
    args=GRPOConfig(output_dir=OUT, **TINY),
    processing_class=tokenizer,
)
trainer.train()
assert {tree.prompt for tree in trainer.trees} <= {"fgh ab ", "fgh cd "}
""",
    "rewards_with_weights": """
trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=[accuracy_reward, length_reward],
    train_dataset=dataset,
    args=GRPOConfig(output_dir=OUT, reward_weights=[1.0, 0.5], **TINY),
)
trainer.train()
for tree in trainer.trees:
    for i, leaf in enumerate(tree.leaves):
        assert abs(leaf.reward - (leaf.correct - 0.05 * len(tree.completion_ids(i)))) < 1e-9
""",
    "async_reward": """
import asyncio

async def judge(completions, **kwargs):
    async def ask(completion):
        await asyncio.sleep(0.01)
        return float("a" in completion)
    return await asyncio.gather(*(ask(c) for c in completions))

trainer = GRPOTrainer(
    model=MODEL, reward_funcs=judge, train_dataset=dataset, args=GRPOConfig(output_dir=OUT, **TINY)
)
trainer.train()
""",
    "dapo": """
from trl.rewards import get_soft_overlong_punishment

training_args = GRPOConfig(
    output_dir=OUT,
    loss_type="dapo",
    beta=0.0,
    epsilon=0.2,
    epsilon_high=0.28,
    num_generations=4,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    steps_per_generation=4,
    mask_truncated_completions=True,
    **TINY,
)
trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=[accuracy_reward, get_soft_overlong_punishment(max_completion_len=12, soft_punish_cache=4)],
    train_dataset=dataset.repeat(2),
    args=training_args,
)
trainer.train()
""",
    "dr_grpo": """
training_args = GRPOConfig(output_dir=OUT, loss_type="dr_grpo", scale_rewards="none", beta=0.0, **TINY)
trainer = GRPOTrainer(model=MODEL, reward_funcs=accuracy_reward, train_dataset=dataset, args=training_args)
trainer.train()
assert trainer.trees[0].meta["credit"]["divisor"] == 1.0
""",
    "eval": """
training_args = GRPOConfig(output_dir=OUT, eval_strategy="steps", eval_steps=1, **TINY)
trainer = GRPOTrainer(
    model=MODEL, reward_funcs=accuracy_reward, train_dataset=dataset, eval_dataset=dataset, args=training_args
)
trainer.train()
assert sum("eval_reward" in row for row in trainer.state.log_history) == 3
""",
    "callbacks": """
from transformers import TrainerCallback

class Count(TrainerCallback):
    steps = 0
    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

count = Count()
trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=accuracy_reward,
    train_dataset=dataset,
    args=GRPOConfig(output_dir=OUT, **TINY),
    callbacks=[count],
)
trainer.train()
assert count.steps == 3
""",
    "iterable_dataset": """
trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=accuracy_reward,
    train_dataset=dataset.repeat(20).to_iterable_dataset(),
    args=GRPOConfig(output_dir=OUT, **TINY),
)
trainer.train()
""",
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_trls_trains_with_two_names_changed(tiny_model, tmp_path, name):
    names = "GRPOConfig", "GRPOTrainer"
    script = HEAD + SCRIPTS[name]
    for trls in names:
        script = script.replace(trls, trls.replace("GRPO", "IBTPO"))
    scope = {"MODEL": str(tiny_model), "OUT": str(tmp_path), "TINY": TINY}
    exec(script.replace("from trl import", "from ibtpo import"), scope)
    trainer = scope["trainer"]
    assert type(trainer) is IBTPOTrainer
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 3
    assert all(math.isfinite(row["loss"]) for row in logged)
    assert logged[0]["ibtpo/trajectories"] in (8.0, 16.0)
    assert all(len(tree.leaves) == trainer.args.num_generations for tree in trainer.trees)
