"""The supervised warm-up: a LoRA adapter in the upper layers learns to write worked solutions in steps.

On a CPU the lower layers are left alone: the backward pass then ends at the first layer that is trained, which makes
a step a third faster. The adapter is kept in float16: 6.5 MB, so that it can be carried to where the model is needed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from word_problems import Row

import ibtpo
from ibtpo.engines.models import TURN_ENDS
from ibtpo.tasks.problems import Problem

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHARE = 2 / 3  # of the layers are trained, counted from the top
RANK, ALPHA = 16, 32
SYSTEM = ""  # in place of SmolLM2's own system prompt, which costs 20 tokens a problem
RAMP = 10  # steps in which the rate rises
IGNORED = -100
SAVE_EVERY = 120  # seconds


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a question and its answer; the first `start` of them are the question's, which are not learned."""

    ids: list[int]
    start: int


def encode(row: Row, tokenizer: Any) -> Example:
    """Question and answer as the model reads them, with the token that ends its turn."""
    prompt = ibtpo.encode_prompt(Problem(row["id"], row["question"], row["answer"]), tokenizer, system_prompt=SYSTEM)[1]
    ends = [token for token in TURN_ENDS if token in tokenizer.get_added_vocab()]
    answer = tokenizer(row["text"] + (ends or [tokenizer.eos_token])[0], add_special_tokens=False)["input_ids"]
    return Example([*prompt, *answer], len(prompt))


def batches(examples: Sequence[Example], size: int, epochs: int, seed: int) -> list[list[Example]]:
    """All batches of the warm-up in order: each epoch every example once, in batches of similar length.

    size: examples a batch.
    """
    order = sorted(examples, key=lambda example: len(example.ids))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    rng = np.random.default_rng(seed)
    return [groups[i] for _ in range(epochs) for i in rng.permutation(len(groups))]


def loss_of(model: Any, batch: Sequence[Example]) -> torch.Tensor:
    """The mean negative log-prob of the answers' tokens. The head is computed for these alone."""
    device, width = model.device, max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, example in enumerate(batch):
        ids[i, : len(example.ids)] = torch.tensor(example.ids)
        labels[i, example.start : len(example.ids)] = torch.tensor(example.ids[example.start :])
    ids, labels = ids.to(device), labels[:, 1:].to(device)
    # Padding stands at the end, where causal attention hides it from all that counts.
    hidden = model.get_base_model().model(input_ids=ids).last_hidden_state[:, :-1]
    wanted = labels != IGNORED
    return torch.nn.functional.cross_entropy(model.get_output_embeddings()(hidden[wanted]).float(), labels[wanted])


def warm_up(
    name: str,
    rows: Sequence[Row],
    folder: Path,
    *,
    epochs: int,
    size: int,
    rate: float,
    most_tokens: int,
    dtype: str = "float32",
    seed: int = 0,
) -> None:
    """Trains the adapter and saves it in `folder/adapter`, or goes on with a training that was stopped.

    name: of the model.
    folder: for the adapter, and for what is needed to go on.
    size: examples a batch.
    rate: peak learning rate; it rises for `RAMP` steps and then falls linearly to 0.
    most_tokens: examples with more tokens are left out.
    dtype: what matrices are multiplied in; the weights have float32.
    """
    if (folder / "adapter").is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    base, tokenizer = ibtpo.load_model(name)
    layers = base.config.num_hidden_layers
    trained = list(range(round(layers * (1 - SHARE)), layers))
    torch.manual_seed(seed)
    model = get_peft_model(
        base,
        LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=LINEAR, layers_to_transform=trained, layers_pattern="layers",
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    examples = [e for e in (encode(row, tokenizer) for row in rows) if len(e.ids) <= most_tokens]
    steps = batches(examples, size, epochs, seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / RAMP, (len(steps) - s) / max(1, len(steps) - RAMP))
    )
    state, begin = folder / "state.pt", 0
    if state.exists():
        found = torch.load(state, weights_only=True)
        begin = found["step"]
        set_peft_model_state_dict(model, found["adapter"])
        optimizer.load_state_dict(found["optimizer"])
        schedule.load_state_dict(found["schedule"])
    tokens = sum(len(e.ids) for batch in steps for e in batch)
    print(f"warm-up: {len(examples)} examples, {len(steps)} steps, {tokens} tokens, from step {begin}", flush=True)
    began = saved = time.monotonic()
    done = 0
    for step, batch in enumerate(steps[begin:], begin + 1):
        with torch.autocast(model.device.type, getattr(torch, dtype), enabled=dtype != "float32"):
            loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        done += sum(len(e.ids) for e in batch)
        speed = done / (time.monotonic() - began)
        print(f"step {step}/{len(steps)}  loss {loss.item():.3f}  {speed:.0f} tokens/s", flush=True)
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            part = state.with_suffix(".part")
            torch.save(
                {
                    "step": step, "adapter": get_peft_model_state_dict(model), "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                },
                part,
            )  # fmt: skip
            part.rename(state)
    model.peft_config["default"].base_model_name_or_path = name  # in place of where it lies on this machine
    model.half().save_pretrained(folder / "part", save_embedding_layers=False)
    (folder / "part").rename(folder / "adapter")
    state.unlink(missing_ok=True)


def merge(name: str, adapter: Path, folder: Path) -> None:
    """Saves the model with the adapter added to its weights; nothing is done where the folder is there.

    name: the model that the adapter was trained for.
    folder: where it is saved, with its tokenizer.
    """
    if folder.is_dir():
        return
    base, tokenizer = ibtpo.load_model(name, device="cpu")
    part = folder.with_name(folder.name + ".part")
    PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
