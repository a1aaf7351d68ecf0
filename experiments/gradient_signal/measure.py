"""Measures how much of a method's update points where success grows: its policy gradients against the true one.

The true gradient of the success rate is estimated from many independent answers to every question (REINFORCE, with the
question's mean reward as baseline). Then every branching rule grows groups for the same questions, and every advantage
turns them into gradients, a batch of questions at a time. The cosine c of such a gradient with the true one grows with
the batch. The ratio of signal to noise, c²/(1 − c²), grows in proportion to the batch. So its value per 1000 generated
tokens compares rules that spend different numbers of tokens.

python measure.py OUTPUT_FOLDER [--model nano] [--data walk:train] [--problems 256] [--answers 64] [--lora RANK] …

OUTPUT_FOLDER/run holds trees and what was measured of them; the same command goes on from there. With --lora the
gradients are those of a fresh LoRA adapter, as training with one begins: of its two factors only the one that starts at
0 has a gradient.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tree_gradients import advantages, gradients, groups, of_method, of_success

import ibtpo
from ibtpo._text import without_nan
from ibtpo.engines import Sampling
from ibtpo.engines.models import decoder, eos_token_ids
from ibtpo.evaluation.statistics import t_quantile
from ibtpo.evaluation.stored_trees import grow_stored, made_by
from ibtpo.metrics import correctness
from ibtpo.score import ScoreOptions
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.storage.tree_file import TreeFile
from ibtpo.tasks.problems import verifier_for
from ibtpo.tree import ReasoningTree, read_trees

SAVE_EVERY = 120  # seconds
RANDOM = 999, 5  # seeds of the answers that the true gradient is estimated from, and of the groups


def main(argv: Sequence[str] | None = None) -> None:
    """Measures all methods, and writes summary.json and table.md; `argv` stands for the words after the program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="of a fresh adapter; 0: all weights")
    parser.add_argument("--data", default="walk:train")
    parser.add_argument("--system-prompt")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--answers", type=int, default=64, help="a problem, for the true gradient")
    parser.add_argument("--batch", type=int, default=16, help="questions")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-completion-length", type=int, default=36)
    parser.add_argument("--confidence", default="joint")
    parser.add_argument("--groups", nargs="+", default=["independent, 8", "random", "entropy", "ib", "ib, β 1"])
    parser.add_argument("--advantages", nargs="+", help="default: all")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    score = ScoreOptions(confidence=args.confidence)
    kinds = {group: groups(score)[group] for group in args.groups}
    reference = ("independent", Budget(args.answers, 1), score)
    trees = grow(args, {"reference": reference, **kinds})
    learner = ibtpo.load_model(args.model)[0]
    if args.lora:
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(r=args.lora, target_modules="all-linear", task_type="CAUSAL_LM")
        torch.manual_seed(0)
        learner = get_peft_model(learner, adapter)
    true = true_gradient(learner, trees["reference"], args.temperature, args.output / "run" / "true.npz")
    names: list[tuple[str, str]] = []
    cosines: list[np.ndarray] = []
    thousands: list[float] = []
    for group in kinds:
        chosen = ["grpo"] if kinds[group][0].startswith("independent") else args.advantages or list(advantages(score))
        batches = [trees[group][i : i + args.batch] for i in range(0, len(trees[group]), args.batch)]
        cosines += _cosines(learner, batches, {n: advantages(score)[n] for n in chosen}, true, args, group)
        names += [(group, name) for name in chosen]
        thousands += [sum(t.generated_tokens for t in trees[group]) / len(batches) / 1000] * len(chosen)
        print(*signal_rows(names, cosines, thousands, args.batch)[-len(chosen) :], sep="\n", flush=True)
    summary = {
        "problems": len(trees["reference"]), "answers": args.answers, "batch": args.batch, "lora": args.lora,
        "success": float(np.mean([c for tree in trees["reference"] for c in correctness(tree)])),
        "rows": signal_rows(names, cosines, thousands, args.batch),
    }  # fmt: skip
    text = json.dumps(without_nan(summary), indent=1, ensure_ascii=False, allow_nan=False)
    (args.output / "summary.json").write_text(text + "\n")
    (args.output / "table.md").write_text(_table(summary))


def grow(
    args: argparse.Namespace, kinds: dict[str, tuple[str, Budget, ScoreOptions]]
) -> dict[str, list[ReasoningTree]]:
    """The trees of every kind of group, by name; those that are missing are grown.

    kinds: branching rule, budget and score options by name; "reference" has a seed of its own.
    """
    model, tokenizer = ibtpo.load_model(args.model)
    problems = ibtpo.load_problems(args.data, limit=args.problems)
    prompts = []
    for problem in problems:
        text, ids = ibtpo.encode_prompt(problem, tokenizer, system_prompt=args.system_prompt)
        prompts.append(Prompt(problem.id, tuple(ids), text, problem.columns))
    verifier_name, found = verifier_for(problems[0]), {}
    folder = args.output / "run" / "trees"
    folder.mkdir(parents=True, exist_ok=True)
    with ibtpo.VerifierPool(verifier_name) as verifier:
        for name, (branching, budget, score) in kinds.items():
            options = SearchOptions(
                budget=budget, sampling=Sampling(args.temperature, 1.0, 0), score=score, branching=branching,
                max_completion_length=args.max_completion_length, max_in_flight=128,
                seed=RANDOM[0] if name == "reference" else RANDOM[1],
            )  # fmt: skip
            eos = eos_token_ids(model, tokenizer)
            engine = ibtpo.TransformersEngine(model, eos_token_ids=eos, max_batch_size=128)
            search = TreeSearch(engine, verifier, decoder(tokenizer), options)
            path = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}.jsonl.gz"
            grow_stored(search, prompts, TreeFile(path), meta=made_by(args.model, verifier_name), resume=True)
            found[name] = list(read_trees(path))
    return found


def true_gradient(model: Any, trees: Sequence[ReasoningTree], temperature: float, path: Path) -> np.ndarray:
    """(P,) the gradient of the success rate, times the number of trees.

    trees: of independent answers.
    path: a file with the sum so far, from which a later call goes on.
    """
    done, total = 0, np.zeros(1)
    if path.exists():
        with np.load(path) as found:
            done, total = int(found["done"]), found["total"]
    saved = time.monotonic()
    for i, tree in enumerate(trees[done:], done + 1):
        total = total + gradients(model, [tree], [of_success], temperature=temperature)[0]
        if i == len(trees) or time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            np.savez(path.with_suffix(".part.npz"), done=i, total=total)
            path.with_suffix(".part.npz").rename(path)
            print(f"true gradient: {i} of {len(trees)} problems", flush=True)
    return total


def _cosines(
    model: Any,
    batches: Sequence[Sequence[ReasoningTree]],
    methods: dict[str, Any],
    true: np.ndarray,
    args: argparse.Namespace,
    group: str,
) -> list[np.ndarray]:
    """For each method, (n,) the cosines of its gradients of n batches with the true gradient; each is stored."""
    path = args.output / "run" / "cosines.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    made = {"questions": args.batch, "lora": args.lora}  # of another batch or adapter, a cosine is another
    same = [r for r in rows if all(r.get(name) == value for name, value in made.items())]
    found = {(r["group"], r["batch"], name): value for r in same for name, value in r["cosines"].items()}
    for i, batch in enumerate(batches):
        missing = [name for name in methods if (group, i, name) not in found]
        if not missing:
            continue
        measured = gradients(model, batch, [of_method(methods[n]) for n in missing], temperature=args.temperature)
        new = {name: _cosine(g, true) for name, g in zip(missing, measured, strict=True)}
        found |= {(group, i, name): value for name, value in new.items()}
        with path.open("a") as f:
            f.write(json.dumps({"group": group, "batch": i, **made, "cosines": new}, ensure_ascii=False) + "\n")
    return [np.array([found[group, i, name] for i in range(len(batches))]) for name in methods]


def signal_rows(
    names: Sequence[tuple[str, str]], cosines: Sequence[np.ndarray], thousands: Sequence[float], batch: int
) -> list[dict[str, Any]]:
    """The rows of the result: each method's signal to noise, against the first one's and IB-TPO's on the same trees.

    names: kind of group and advantage of each method.
    cosines: for each method, (n,) the cosines of its batches with the true gradient.
    thousands: for each method, generated tokens of a batch, in thousands.
    batch: questions of a batch.
    """
    rows = []
    for (group, advantage), c, spent in zip(names, cosines, thousands, strict=True):
        cost = thousands[0] / spent
        own = cosines[names.index((group, "ibtpo"))] if (group, "ibtpo") in names else None
        rows.append(
            {
                "groups": group,
                "advantage": advantage,
                "tokens": 1000 * spent / batch,
                "cosine": float(c.mean()),
                "signal": float(_signal(c.mean(), spent)),
                "ratio": cost * _ratio(c, cosines[0]),
                "ci": [cost * end for end in _interval(c, cosines[0])],
                "to_ibtpo": None if own is None else [_ratio(c, own), *_interval(c, own)],
            }
        )
    return rows


def _ratio(mine: np.ndarray, theirs: np.ndarray) -> float:
    """The ratio of two signals to noise for equal tokens, from (n,) cosines."""
    return float(np.exp(_log_ratio(mine.mean(), theirs.mean())))


def _log_ratio(mine: float, theirs: float) -> float:
    """The logarithm of the ratio of two signals to noise for equal tokens, from mean cosines."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a cosine of 0: the ratio is 0, infinite or not known
        return float(np.log(_signal(mine, 1)) - np.log(_signal(theirs, 1)))


def _interval(mine: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a ratio of signals for equal tokens, over other batches.

    By the jackknife of its logarithm and Student's t: few batches are too few for a bootstrap, whose intervals then
    hold the truth in 90 % of the cases.

    mine, theirs: (n,) cosines of the same batches.
    """
    n = len(mine)
    if np.array_equal(mine, theirs) or n < 2:
        return (1.0, 1.0) if n > 1 else (math.nan, math.nan)
    without = np.array([_log_ratio(np.delete(mine, i).mean(), np.delete(theirs, i).mean()) for i in range(n)])
    half = t_quantile(n - 1) * float(np.sqrt((n - 1) * without.var()))
    middle = _log_ratio(mine.mean(), theirs.mean())
    return float(np.exp(middle - half)), float(np.exp(middle + half))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of two gradients; 0 where one vanishes, as that of a batch without a mixed group does."""
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else 0.0


def _signal(cosine: Any, thousands: float) -> Any:
    """The ratio of signal to noise of a batch, per 1000 generated tokens."""
    return cosine**2 / (1 - cosine**2) / thousands


def _table(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['problems']} training problems, success {100 * summary['success']:.1f} %, batches of "
        f"{summary['batch']}; true gradient from {summary['answers']} answers a problem. The ratios are for the same "
        "tokens, the last for the same trees; 95 % intervals over batches, paired (jackknife, Student's t).",
        "",
        "| groups | advantage | tokens a question | cosine | signal to noise, 1000 tokens | against GRPO | "
        "against ibtpo |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for r in summary["rows"]:
        against = [(r["ratio"], *r["ci"]), r["to_ibtpo"]]
        cells = ["–" if c is None else "{:.2f} [{:.2f}, {:.2f}]".format(*c) for c in against]
        lines.append(
            f"| {r['groups']} | {r['advantage']} | {r['tokens']:.0f} | {r['cosine']:.3f} | {r['signal']:.4f} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
