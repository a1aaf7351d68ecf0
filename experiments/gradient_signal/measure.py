"""Measures how much of a method's update points where success grows: its policy gradients against the true one.

The true gradient of the success rate is estimated from many independent answers to every question (REINFORCE, with the
question's mean reward as baseline). Then every branching rule grows groups for the same questions, and every advantage
turns them into gradients, 16 questions a batch. The cosine c of such a gradient with the true one grows with the batch.
The ratio of signal to noise, c²/(1 − c²), grows in proportion to the batch. So its value per 1000 generated tokens
compares rules that spend different numbers of tokens.

python measure.py OUTPUT_FOLDER [--model nano] [--problems 2000] [--answers 64]

What is measured is kept in OUTPUT_FOLDER/run, so that a run that was stopped goes on where it was.
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
CHUNK = 8 * BATCH  # questions whose trees grow at once
JOINT = ScoreOptions(confidence="joint")
TREE = Budget(4, 9, 1, 1)
# Where trees branch: rule, size, and how the rule scores a step.
GROUPS = {
    "independent, 8": ("independent", Budget(8, 1), JOINT),
    "independent, 12": ("independent", Budget(12, 1), JOINT),
    "random": ("random", TREE, JOINT),
    "fixed width": ("fixed_width", TREE, JOINT),
    "entropy": ("entropy", TREE, JOINT),
    "ib": ("ib", TREE, JOINT),
    "ib, β 1": ("ib", TREE, ScoreOptions(ib_beta=1, confidence="joint")),
    "ib, draws": ("ib", TREE, ScoreOptions(confidence="joint", value="draws")),
    "ib, draws, β 1": ("ib", TREE, ScoreOptions(ib_beta=1, confidence="joint", value="draws")),
    "ib, unique": ("ib", TREE, ScoreOptions(confidence="joint", weight="unique")),
    "ib, geomean": ("ib", TREE, ScoreOptions()),
}
ADVANTAGES = {
    "grpo": CreditOptions("grpo"),
    "ibtpo": CreditOptions(score=JOINT),
    "ibtpo, λ 0": CreditOptions(score=JOINT, lam=0),
    "ibtpo, λ 0.5": CreditOptions(score=JOINT, lam=0.5),
    "ibtpo, β 1": CreditOptions(score=ScoreOptions(ib_beta=1, confidence="joint")),
    "ibtpo, draws": CreditOptions(score=ScoreOptions(confidence="joint", value="draws")),
    "ibtpo, mixed trees only": CreditOptions(score=JOINT, ib_on_uniform_trees=False),
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


class Study:
    """The problems of a study, and what has been measured of them so far.

    folder: where it is kept.
    model, tokenizer: the policy.
    verifier: grades the answers.
    problems, answers: how many problems, and how many answers to each for the true gradient.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any, verifier: Any, problems: int, answers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.kept = folder / "cosines.jsonl", folder / "true.npz"
        self.model, self.tokenizer, self.verifier, self.answers = model, tokenizer, verifier, answers
        prompts = []
        for problem in ibtpo.load_problems("walk:train", limit=problems):
            text, ids = ibtpo.encode_prompt(problem, tokenizer)
            prompts.append(Prompt(problem.id, tuple(ids), text, problem.columns))
        self.chunks = [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]

    def grow(
        self, prompts: Sequence[Prompt], branching: str, budget: Budget, score: ScoreOptions, seed: int
    ) -> list[ReasoningTree]:
        """Grows a tree for each prompt."""
        ends = eos_token_ids(self.model, self.tokenizer)
        engine = ibtpo.TransformersEngine(self.model, eos_token_ids=ends, max_batch_size=256)
        options = SearchOptions(
            budget=budget, sampling=Sampling(1.0, 1.0, 0), score=score, branching=branching, max_completion_length=36,
            max_in_flight=256, seed=seed,
        )  # fmt: skip
        return asyncio.run(TreeSearch(engine, self.verifier, decoder(self.tokenizer), options).grow_all(prompts))

    def true_gradient(self) -> tuple[np.ndarray, list[float]]:
        """The gradient (P,) of the mean success over all problems, and the success of each chunk of problems."""
        total, success = np.zeros(sum(p.numel() for p in self.model.parameters())), []
        if self.kept.is_file():
            with np.load(self.kept) as kept:
                total, success = kept["total"], kept["success"].tolist()
        for chunk in self.chunks[len(success) :]:
            trees = self.grow(chunk, "independent", Budget(self.answers, 1), JOINT, 999)
            total += sum(gradients(self.model, trees[i : i + 2], [of_success])[0] for i in range(0, len(trees), 2))
            success.append(float(np.mean([leaf.reward for t in trees for leaf in t.leaves])))
            np.savez(self.kept, total=total, success=success)
            print(f"true gradient: {len(success)}/{len(self.chunks)} parts", flush=True)
        return total, success

    def rows(self) -> list[dict[str, Any]]:
        """What was measured of each group and batch: tokens, and the cosine of each advantage."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.is_file() else []

    def measure(self, true: np.ndarray) -> None:
        """Measures all batches of all groups that are missing."""
        done = {(row["groups"], row["chunk"]) for row in self.rows()}
        for i, chunk in enumerate(self.chunks):
            for group, (branching, budget, score) in GROUPS.items():
                if (group, i) in done:
                    continue
                trees = self.grow(chunk, branching, budget, score, 5)
                names = ["grpo"] if branching == "independent" else list(ADVANTAGES)
                weightings = [of_method(ADVANTAGES[name]) for name in names]
                lines = []
                for at in range(0, len(trees), BATCH):
                    batch = trees[at : at + BATCH]
                    found = [_cosine(g, true) for g in gradients(self.model, batch, weightings)]
                    tokens = sum(t.generated_tokens for t in batch) / len(batch)
                    row = {
                        "groups": group,
                        "chunk": i,
                        "tokens": tokens,
                        "cosines": dict(zip(names, found, strict=True)),
                    }
                    lines.append(json.dumps(row, ensure_ascii=False) + "\n")
                with self.file.open("a") as f:  # all batches of a chunk at once: none is measured twice
                    f.write("".join(lines))
            print(f"groups: {i + 1}/{len(self.chunks)} parts", flush=True)


def compare(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Signal to noise of each group and advantage, and its ratio to that of GRPO's groups, with intervals over batches.

    rows: what `Study.rows` returns. Batches that a group lacks are left out for all.
    """
    groups: dict[str, list[dict[str, Any]]] = {name: [row for row in rows if row["groups"] == name] for name in GROUPS}
    count = min(map(len, groups.values()))
    samples = np.random.default_rng(0).integers(0, count, (10_000, count))
    found: list[dict[str, Any]] = []
    base: tuple[np.ndarray, float] | None = None  # cosines and tokens of the first group, which all are compared with
    for group, batches in groups.items():
        thousands = float(np.mean([row["tokens"] for row in batches[:count]])) * BATCH / 1000
        for name in batches[0]["cosines"] if batches else ():
            c = np.array([row["cosines"][name] for row in batches[:count]])
            base = base or (c, thousands)
            ratio = _signal(c[samples].mean(1), thousands) / _signal(base[0][samples].mean(1), base[1])
            found.append(
                {
                    "groups": group,
                    "advantage": name,
                    "tokens": 1000 * thousands / BATCH,
                    "cosine": float(c.mean()),
                    "signal": float(_signal(c.mean(), thousands)),
                    "ratio": float(_signal(c.mean(), thousands) / _signal(base[0].mean(), base[1])),
                    "ci": np.percentile(ratio, [2.5, 97.5]).tolist(),
                }
            )
    return found


def main() -> None:
    """Measures all methods, and writes summary.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--answers", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = ibtpo.load_model(args.model)
    with ibtpo.VerifierPool("walk") as verifier:
        study = Study(args.output / "run", model, tokenizer, verifier, args.problems, args.answers)
        true, success = study.true_gradient()
        study.measure(true)
    rows = compare(study.rows())
    summary = {
        "problems": args.problems, "answers": args.answers, "success": float(np.mean(success)), "batch": BATCH,
        "rows": rows,
    }  # fmt: skip
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
