"""Makes the embedded model in src/ibtpo/assets/nano: tokenizer, training data, pretraining, evaluation and README.

    python scripts/make_nano.py

The model learns from walks that make a sensible move only now and then. So it masters the mechanics (legal moves, right
arithmetic, noticing the target and the end of its moves), and making sensible moves more often is left for
reinforcement learning to teach. The same seed and number of threads give the same weights on the same machine.
"""

import argparse
import json
import math
import platform
import random
import re
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ibtpo.tasks import walk
from ibtpo.verify.walk import read_walk, walk_reward

FOLDER = Path(__file__).parents[1] / "src" / "ibtpo" / "assets" / "nano"
MEAN_TOKENS = 30  # about the tokens of an answer, a constant that scales the loss
EOS, PAD = "<eos>", "<pad>"
# The longest come first, because the pre-tokenizer takes the first alternative that fits.
PIECES = [" reach ", " with ", "Stuck.", "From ", "Done.", " or ", ".\n\n", " = ", ".\n", ", "]
MOVES = [f"{sign * size:+d}" for size in sorted(walk.LARGE + walk.SMALL, reverse=True) for sign in (1, -1)]
SENSE = 0.4  # the share of moves that are made sensible, that is, lie on a shortest walk to the target
PROMPT_TOKENS = 13  # every prompt has as many
MAX_NEW_TOKENS = 48
GAUGE = 12  # the auxiliary head of `losses` tells distances of -12 to 12 apart


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a number or phrase. Other text falls back to UTF-8 bytes, so any text round-trips."""
    words = [*PIECES, *MOVES, *map(str, walk.VALUES)]
    vocab = {token: i for i, token in enumerate([PAD, EOS, *words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, ignore_merges=True))
    pattern = "|".join([*map(re.escape, [*PIECES, *MOVES]), r"[1-9][0-9]|[0-9]", r"[\s\S]"]).replace("\\ ", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=256,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> LlamaForCausalLM:
    """A small Llama with random weights, for `args.hidden` units in each of `args.layers` layers."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=3 * args.hidden,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
    )
    return LlamaForCausalLM(config)


def answer(problem: walk.Walk, rng: random.Random) -> str:
    """An answer of legal moves, some of them sensible, that ends at the target or after `MAX_MOVES` moves."""
    value, steps = problem.start, []
    left = walk.distances(problem.moves, problem.target)
    for _ in range(walk.MAX_MOVES):
        moves = walk.next_values(value, problem.moves)
        if rng.random() < SENSE:
            best = min(left[result] for _, result in moves)
            moves = [move for move in moves if left[move[1]] == best]
        move, value = rng.choice(moves)
        steps.append(walk.step(move, value))
        if value == problem.target:
            return "".join(steps) + walk.DONE
    return "".join(steps) + walk.STUCK


def draw_problem(rng: random.Random) -> walk.Walk:
    """A random problem of the train split, which moves and target decide, however easy or hard it is."""
    while True:
        up, down = ((rng.choice(walk.LARGE), rng.choice(walk.SMALL)) for _ in range(2))
        moves = (*up, -down[0], -down[1])
        start, target = rng.sample(walk.VALUES, 2)
        if walk.split_of(moves, target) == "train":
            return walk.Walk(moves, target, start)


def batches(tokenizer: PreTrainedTokenizerFast, size: int, rng: random.Random) -> Iterator[torch.Tensor]:
    """Yields batches without end: (size, T) token ids of prompt, answer and eos, padded on the right.

    The rows of a batch have similar lengths, so that there is little padding.
    """
    while True:
        problems = [draw_problem(rng) for _ in range(32 * size)]
        texts = [walk.prompt(problem) + answer(problem, rng) + EOS for problem in problems]
        rows = sorted(tokenizer(texts)["input_ids"], key=len)
        chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = len(chunk[-1])
            yield torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in chunk])


def losses(
    model: LlamaForCausalLM, gauge: torch.nn.Linear, ids: torch.Tensor, keep: torch.Tensor, step_end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of the answers' tokens, and that of the gauge.

    The gauge is a head that tells, at the end of each step, how far the value is from the target. It is there because
    plain next-token training takes long to notice that a walk has arrived: that is a match of two numbers of which
    neither alone says anything, while a distance can be learned bit by bit. The gauge reads the layer before the last,
    so that the last layer can use the result for the token after the step. It is thrown away after training.

    gauge: maps the hidden state to 2 * GAUGE + 1 distances.
    ids: (size, T) token ids of a batch.
    keep: (size, T - PROMPT_TOKENS) true for the answers' tokens, false for padding.
    step_end: the token id that ends a step.

    Returns two scalars.
    """
    # No attention mask: padding is on the right, where causal attention never looks.
    start = PROMPT_TOKENS - 1
    out = model.model(input_ids=ids[:, :-1], use_cache=False, output_hidden_states=True)
    hidden, early = out.last_hidden_state[:, start:], out.hidden_states[-2][:, start:]
    ends = ids[:, start:-1] == step_end
    each = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[keep]), ids[:, PROMPT_TOKENS:][keep], reduction="none"
    )
    # Divided by a constant, not by the tokens of the batch: batches hold answers of one length, and a mean would give
    # short answers more weight, that is, teach to stop early.
    answers = each.sum() / (MEAN_TOKENS * len(ids))
    # Ids of numbers are consecutive: their difference is the difference of the values.
    gap = (ids[:, start - 1 : -2] - ids[:, 3:4]).clamp(-GAUGE, GAUGE) + GAUGE
    distances = torch.nn.functional.cross_entropy(gauge(early[ends]), gap[ends])
    return answers, distances


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> int:
    """Trains the model to predict the answers' tokens; returns how many of them it saw."""
    gauge = torch.nn.Linear(args.hidden, 2 * GAUGE + 1)
    parameters = [*model.parameters(), *gauge.parameters()]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    warmup = max(1, args.steps // 25)

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (args.steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    pad, step_end = tokenizer.convert_tokens_to_ids([PAD, walk.STEP_END])
    data = batches(tokenizer, args.batch, random.Random(args.seed))
    seen, start, running = 0, time.time(), 0.0
    model.train()
    for step in range(1, args.steps + 1):
        ids = next(data)
        keep = ids[:, PROMPT_TOKENS:] != pad
        seen += int(keep.sum())
        loss, distance = losses(model, gauge, ids, keep, step_end)
        running += loss.item()
        loss = loss + distance
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 100 == 0 or step == args.steps:
            rate = seen / (time.time() - start)
            report = f"loss {running / 100:.4f}  gauge {distance.item():.3f}"
            print(f"step {step}/{args.steps}  {report}  {rate:,.0f} answer tokens/s", flush=True)
            running = 0.0
        if args.check_every and step % args.check_every == 0 and step < args.steps:
            save(model, tokenizer, args.output)
            print(json.dumps(evaluate(model, tokenizer, walk.make_problems("test", 128), 4, args.seed)), flush=True)
            model.train()
    return seen


def mixed_share(right: int, k: int, size: int) -> float:
    """The share of groups of `size` out of k answers, `right` of them right, that hold right and wrong answers."""
    return 1 - (math.comb(right, size) + math.comb(k - right, size)) / math.comb(k, size)


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: list[dict[str, Any]], **sampling: Any
) -> list[list[int]]:
    """Samples one completion for each problem; returns its token ids up to and including eos.

    sampling: options of `model.generate` that say how tokens are drawn.
    """
    model.eval()
    out: list[list[int]] = []
    for i in range(0, len(problems), 512):
        ids = tokenizer([p["question"] for p in problems[i : i + 512]], return_tensors="pt")
        new = model.generate(**ids, max_new_tokens=MAX_NEW_TOKENS, do_sample=True, **sampling)[:, PROMPT_TOKENS:]
        for row in new.tolist():
            end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            out.append(row[:end])
    return out


def evaluate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[dict[str, Any]],
    k: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
) -> dict[str, float]:
    """Samples k answers to each problem, and measures accuracy and mechanics.

    Returns `accuracy` (avg@k) with the half-width of its 95 % interval over problems as `ci95`, pass@k, and how well
    the mechanics work; the README of the model says what each of those numbers means.
    """
    torch.manual_seed(seed)
    rows = [p for p in problems for _ in range(k)]
    ids = sample(model, tokenizer, rows, temperature=temperature, top_p=top_p, top_k=top_k)
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    columns = {name: [p[name] for p in rows] for name in ("start", "target", "moves")}
    rewards = walk_reward(texts, **columns)
    count: Counter[str] = Counter()
    for row, text, reward in zip(rows, texts, rewards, strict=True):
        *steps, last = text.split("\n\n")
        values = read_walk(steps, row["start"], row["moves"])
        count["steps"] += len(steps)
        count["right"] += len(values)
        count["hit"] += row["target"] in values
        count["noticed"] += reward == 1.0
        count["claims"] += last == walk.DONE
    means = torch.tensor([float(r or 0) for r in rewards]).view(len(problems), k)
    per_problem = means.mean(1)
    return {
        "accuracy": round(per_problem.mean().item(), 4),
        "ci95": round(1.96 * per_problem.std().item() / len(problems) ** 0.5, 4),
        "pass_at_k": round(means.amax(1).mean().item(), 4),
        "mixed": round(sum(mixed_share(int(right), k, 8) for right in means.sum(1)) / len(problems), 4),
        "n": len(problems),
        "k": k,
        "moves_right": round(count["right"] / max(1, count["steps"]), 4),
        "hits_noticed": round(count["noticed"] / max(1, count["hit"]), 4),
        "claims_true": round(count["noticed"] / max(1, count["claims"]), 4),
        "steps": round(count["steps"] / len(rows) + 1, 2),
        "tokens": round(sum(map(len, ids)) / len(rows), 1),
        "truncated": round(sum(row[-1] != tokenizer.eos_token_id for row in ids) / len(rows), 4),
    }


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes model and tokenizer, with the default sampling of `model.generate`."""
    model.generation_config.update(
        _from_model_config=False, do_sample=True, temperature=0.7, top_p=0.95, top_k=20, max_new_tokens=MAX_NEW_TOKENS
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read, and a wheel keeps file modes


README = """# nano: the embedded model of ibtpo

A {parameters:,}-parameter Llama (hidden {hidden}, {layers} layers, 4 heads, 2 key/value heads, tied embeddings,
float32, {vocab} tokens) that plays number walks; see `ibtpo/tasks/walk.py` for the format.
Its mechanics are good, its moves sensible now and then: a starting point for reinforcement learning.
Licence: Apache-2.0.

- Data: answers generated by `answer` in `scripts/make_nano.py` for problems of the train split only; {tokens:,} answer
  tokens, each seen once. No outside data, no outside model.
- Made by `{command}` (seed {seed})
  in {minutes:.0f} minutes on {threads} CPU thread(s), PyTorch {torch}, {machine}.
- Tokenizer: one token a number 0..99 and phrase, other text as UTF-8 bytes; every text round-trips, nothing is added.

Measured on {n} problems of the test split, {k} answers each:

| sampling | accuracy (95 % CI) | pass@{k} | mixed | moves right | hits noticed | claims true | steps | tokens |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Mixed: groups of eight answers that hold right and wrong ones. Moves right: one of the four given,
with the right result. Hits noticed: a walk that comes to the target says so and ends. Claims true:
answers that end with `Done.` and are right.
"""


def main() -> None:
    """Makes the model and its README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16, help="answers a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check-every", type=int, default=1000, help="save and evaluate this often; 0 = at the end")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.time()
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    tokens = pretrain(model, tokenizer, args)
    minutes = (time.time() - start) / 60
    shutil.rmtree(args.output, ignore_errors=True)
    save(model, tokenizer, args.output)

    problems = walk.make_problems("test", 500)
    rows = []
    for name, sampling in (
        ("temperature 1", {}),
        ("temperature 0.7, top-p 0.95, top-k 20", {"temperature": 0.7, "top_p": 0.95, "top_k": 20}),
    ):
        m = evaluate(model, tokenizer, problems, 16, args.seed, **sampling)
        print(name, json.dumps(m), flush=True)
        cells = [
            name,
            f"{m['accuracy']:.1%} ± {m['ci95']:.1%}",
            *(f"{m[x]:.1%}" for x in ("pass_at_k", "mixed", "moves_right", "hits_noticed", "claims_true")),
            str(m["steps"]),
            str(m["tokens"]),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    text = README.format(
        parameters=model.num_parameters(),
        hidden=args.hidden,
        layers=args.layers,
        vocab=len(tokenizer),
        tokens=tokens,
        command=shlex.join(["python", "scripts/make_nano.py", *sys.argv[1:]]),
        seed=args.seed,
        minutes=minutes,
        threads=args.threads,
        torch=torch.__version__,
        machine=platform.machine(),
        n=len(problems),
        k=16,
        rows="\n".join(rows),
    )
    (args.output / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
