"""Measures how much of a method's update points where success grows: its policy gradients against the true one.

The true gradient of the success rate is estimated from many independent answers to every question (REINFORCE, with the
question's mean reward as baseline). Then every branching rule grows groups for the same questions, and every advantage
turns them into gradients, 16 questions a batch. The cosine c of such a gradient with the true one grows with the batch.
The ratio of signal to noise, c²/(1 − c²), grows in proportion to the batch. So its value per 1000 generated tokens
compares rules that spend different numbers of tokens.

python measure.py OUTPUT_FOLDER [--model nano] [--problems 256] [--answers 64]
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ibtpo
from ibtpo.credit import CreditOptions, path_advantages, token_advantages
from ibtpo.engines import Sampling
from ibtpo.engines.models import decoder, eos_token_ids
from ibtpo.score import ScoreOptions
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.tree import ReasoningTree

BATCH = 16  # questions
JOINT = ScoreOptions(confidence="joint")
TREE = Budget(4, 9, 1, 1)
GROUPS = {
    "independent, 8": ("independent", Budget(8, 1), JOINT),
    "random": ("random", TREE, JOINT),
    "entropy": ("entropy", TREE, JOINT),
    "ib": ("ib", TREE, JOINT),
    "ib, β 1": ("ib", TREE, ScoreOptions(ib_beta=1, confidence="joint")),
}
ADVANTAGES = {
    "grpo": CreditOptions("grpo"),
    "ibtpo": CreditOptions(score=JOINT),
    "ibtpo, λ 0": CreditOptions(score=JOINT, lam=0),
    "ibtpo, sqrt": CreditOptions(score=JOINT, prefix_weight="sqrt"),
    "ibtpo, once": CreditOptions(score=JOINT, prefix_weight="once"),
    "treerl": CreditOptions("treerl"),
    "treepo": CreditOptions("treepo"),
}
Weights = Callable[[ReasoningTree], list[np.ndarray]]


def of_method(options: CreditOptions) -> Weights:
    """Weights each token as TRL's loss does: by its advantage, over the answer's length and the group's size."""

    def weights(tree: ReasoningTree) -> list[np.ndarray]:
        advantages = token_advantages(tree, path_advantages(tree, options))
        return [a / len(a) / len(advantages) for a in advantages]

    return weights


def of_success(tree: ReasoningTree) -> list[np.ndarray]:
    """The weights whose gradient is that of the success rate, without bias.

    The tree must hold independent answers. The baseline of each is the mean reward of the others.
    """
    rewards = np.array([leaf.reward for leaf in tree.leaves], dtype=float)
    n = len(rewards)
    advantages = (rewards - rewards.mean()) * n / (n - 1)
    return [np.full(len(tree.completion_ids(i)), advantages[i] / n) for i in range(n)]


def gradients(model: Any, trees: Sequence[ReasoningTree], weightings: Sequence[Weights]) -> list[np.ndarray]:
    """The gradient of the mean over trees of Σ weight · log-prob, for each weighting.

    model: the model that the log-probs are computed with.
    trees: the groups of a batch.
    weightings: functions from a tree to the weights of each answer's tokens.

    Returns, for each weighting, (P,) the gradient with respect to all P parameters.
    """
    rows = [(list(t.prompt_ids), t.completion_ids(i)) for t in trees for i in range(len(t.leaves))]
    width = max(len(p) + len(c) for p, c in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for i, (p, c) in enumerate(rows):
        ids[i, : len(p) + len(c)] = torch.tensor(p + c)
        mask[i, : len(p) + len(c)] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    parameters, found = list(model.parameters()), []
    for k, weighting in enumerate(weightings):
        weight = torch.zeros_like(logprobs)
        for i, values in enumerate(v for tree in trees for v in weighting(tree)):
            start = len(rows[i][0]) - 1
            weight[i, start : start + len(values)] = torch.tensor(values, dtype=torch.float32)
        loss = (weight * logprobs).sum() / len(trees)
        parts = torch.autograd.grad(loss, parameters, retain_graph=k < len(weightings) - 1)
        found.append(torch.cat([part.flatten() for part in parts]).double().numpy())
    return found


def main() -> None:
    """Measures all methods, and writes summary.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--answers", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = ibtpo.load_model(args.model)
    prompts = []
    for problem in ibtpo.load_problems("walk:train", limit=args.problems):
        text, ids = ibtpo.encode_prompt(problem, tokenizer)
        prompts.append(Prompt(problem.id, tuple(ids), text, problem.columns))

    def grow(branching: str, budget: Budget, score: ScoreOptions, seed: int) -> list[ReasoningTree]:
        engine = ibtpo.TransformersEngine(model, eos_token_ids=eos_token_ids(model, tokenizer), max_batch_size=128)
        options = SearchOptions(
            budget=budget, sampling=Sampling(1.0, 1.0, 0), score=score, branching=branching, max_completion_length=36,
            max_in_flight=128, seed=seed,
        )  # fmt: skip
        search = TreeSearch(engine, verifier, decoder(tokenizer), options)
        return asyncio.run(search.grow_all(prompts))

    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    with ibtpo.VerifierPool("walk") as verifier:
        reference = grow("independent", Budget(args.answers, 1), JOINT, 999)
        success = float(np.mean([leaf.reward for t in reference for leaf in t.leaves]))
        parts = [gradients(model, reference[i : i + 2], [of_success])[0] for i in range(0, len(reference), 2)]
        true = np.mean(parts, 0)
        base, base_thousands = np.empty(0), 0.0  # cosines and tokens of the first group, which all are compared with
        for group, (branching, budget, score) in GROUPS.items():
            trees = grow(branching, budget, score, 5)
            names = ["grpo"] if branching == "independent" else list(ADVANTAGES)
            weightings = [of_method(ADVANTAGES[name]) for name in names]
            batches = [trees[i : i + BATCH] for i in range(0, len(trees), BATCH)]
            cosines = np.array(
                [[_cosine(g, true) for g in gradients(model, batch, weightings)] for batch in batches]
            )  # (batches, advantages)
            thousands = sum(t.generated_tokens for t in trees) / len(batches) / 1000
            if not rows:
                base, base_thousands = cosines[:, 0], thousands
            samples = rng.integers(0, len(batches), (10_000, len(batches)))
            for name, c in zip(names, cosines.T, strict=True):
                ratio = _signal(c[samples].mean(1), thousands) / _signal(base[samples].mean(1), base_thousands)
                rows.append(
                    {
                        "groups": group,
                        "advantage": name,
                        "tokens": 1000 * thousands / BATCH,
                        "cosine": float(c.mean()),
                        "signal": float(_signal(c.mean(), thousands)),
                        "ratio": float(_signal(c.mean(), thousands) / _signal(base.mean(), base_thousands)),
                        "ci": np.percentile(ratio, [2.5, 97.5]).tolist(),
                    }
                )
                print(rows[-1], flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    summary = {"problems": args.problems, "answers": args.answers, "success": success, "batch": BATCH, "rows": rows}
    (args.output / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    (args.output / "table.md").write_text(_table(summary))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _signal(cosine: Any, thousands: float) -> Any:
    """The ratio of signal to noise of a batch, per 1000 generated tokens."""
    return cosine**2 / (1 - cosine**2) / thousands


def _table(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['problems']} training problems, success {100 * summary['success']:.1f} %, batches of "
        f"{summary['batch']}; true gradient from {summary['answers']} answers a problem. 95 % bootstrap intervals over "
        "batches, paired.",
        "",
        "| groups | advantage | tokens a question | cosine | signal to noise, 1000 tokens | against GRPO |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for r in summary["rows"]:
        low, high = r["ci"]
        lines.append(
            f"| {r['groups']} | {r['advantage']} | {r['tokens']:.0f} | {r['cosine']:.3f} | {r['signal']:.4f} | "
            f"{r['ratio']:.2f} [{low:.2f}, {high:.2f}] |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
