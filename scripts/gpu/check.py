"""Checks that the laws of the update and of sampling hold on a GPU; prints each number beside its bound.

python scripts/gpu/check.py [--device cuda|cpu] [--tiny] [--seconds N] [--output FILE]

Models have random weights, so nothing is needed but this repository. docs/engines.md, "The GPU suite", says what is
checked. Exit status 1 says that a check failed.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu_report import Report
from resume import killed_sampling, killed_training
from shapes import SHAPES, Batch, make_model, make_tokenizer, random_prompts, tree_batch
from trajectories import HAVE_TRL, PEER, add_head, packer, plain

import ibtpo
from ibtpo.engines import Completion, Sampling
from ibtpo.engines.models import decoder
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.training import packed
from ibtpo.verify.rewards import RewardFunctions

TEMPERATURE = 0.7
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

# float32: the largest difference of a parameter's gradient, relative to that gradient. Rounding makes up to 1e-5 of it.
GRADIENT = 1e-3
# bfloat16: the error of the shared gradient against float32, as a multiple of the unshared one's own error.
WORSE = 2.0
LOSS = 1e-4  # float32: difference of the losses, relative to the size of the loss's terms
GAP = 1e-3  # float32: largest difference of a log-prob, in nats
FLIPPED = 0.85  # float32: least share of rollouts with the same tokens whatever the size of the batch

Gradients = dict[str, torch.Tensor]


# --- the update ------------------------------------------------------------------------------------------------------


def update(model: Any, batch: Batch, forward: Callable[..., Any]) -> tuple[float, Gradients]:
    """The loss of one update and the gradient of every parameter, in float32.

    forward: computes log-probs and entropies, with the arguments of `plain` after the model.
    """
    model.zero_grad()
    logps, entropies, _ = forward(model, batch.ids, batch.mask, batch.keep, compute_entropy=True)
    loss = batch.loss(logps, entropies)
    loss.backward()
    found = {name: full(p.grad).float().clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), found


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a whole, also one that FSDP2 shards."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shared(model: Any, batch: Batch) -> tuple[float, Gradients, float]:
    """The update with shared prefixes, and the share of positions that it computed.

    Raises `RuntimeError` if it fell back to the forward of every trajectory.
    """
    forward = packer(model)
    loss, found = update(model, batch, lambda *args, **options: forward(plain, *args, **options))
    if forward.disabled or forward.computed == 1:
        raise RuntimeError(f"prefixes were not shared: {forward.disabled or 'too few of them'}")
    return loss, found, forward.computed


def largest(found: Gradients, wanted: Gradients) -> tuple[float, str]:
    """The largest relative difference of a parameter's gradient, and the parameter's name."""
    if found.keys() != wanted.keys():
        raise RuntimeError(f"gradients of other parameters: {sorted(found.keys() ^ wanted.keys())[:3]}")
    floor = 1e-6 * max(g.norm() for g in wanted.values())  # a gradient of nothing but rounding has no relative size
    differences = {name: ((found[name] - g).norm() / g.norm().clamp(min=floor)).item() for name, g in wanted.items()}
    name = max(differences, key=lambda name: differences[name])
    return differences[name], name


def distance(found: Gradients, wanted: Gradients) -> float:
    """The relative difference of two gradients as whole vectors."""
    error = sum((found[name] - g).norm().item() ** 2 for name, g in wanted.items())
    return (error / sum(g.norm().item() ** 2 for g in wanted.values())) ** 0.5


@contextmanager
def attention(model: Any, kind: str, device: str) -> Iterator[None]:
    """Switches a model to an attention; on a CPU FlexAttention's unfused code, which alone differentiates there."""
    before = model.config._attn_implementation
    model.set_attn_implementation(kind)
    try:
        with ExitStack() as stack:
            if kind == "flex_attention" and device == "cpu":
                from torch.nn.attention import flex_attention

                stack.enter_context(patch.object(flex_attention, "_validate_device", lambda *_: None))
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def blind_to_the_tree() -> Iterator[None]:
    """Makes a position see all before it, other branches too: the mistake that the checks of gradients must notice."""
    real = packed.lay_out

    def wrong(*args: Any) -> Any:
        layout = real(*args)
        return replace(layout, end=layout.end * 0 + len(layout.end))

    with patch.object(packed, "lay_out", wrong):
        yield


def both_dtypes(shape: str, device: str) -> tuple[Any, Any]:
    """A model in float32 and in bfloat16 with the same weights, so that what differs is the arithmetic."""
    low = make_model(shape, device, torch.bfloat16)
    high = make_model(shape, device, torch.float32)
    high.load_state_dict(low.state_dict())
    return high, low


def check_update(report: Report, shape: str, batch: Batch, device: str, kinds: Sequence[str]) -> None:
    """Law 6: loss and every gradient of the shared-prefix update are those of the trajectories, in both dtypes."""
    high, low = both_dtypes(shape, device)
    for model in (high, low):
        add_head(model, TEMPERATURE)
    rows = max(1, len(batch.ids) // 4)
    truth_loss, truth = update(high, batch, lambda *a, **o: plain(*a, batch_size=rows, **o))
    low_loss, unshared = update(low, batch, lambda *a, **o: plain(*a, batch_size=rows, **o))
    own, own_loss = distance(unshared, truth), abs(low_loss - truth_loss)
    scale = batch.weights.abs().mean().item()
    for kind in kinds:
        for model, dtype in ((high, torch.float32), (low, torch.bfloat16)):
            name = f"shared prefixes, {shape}, {kind}, {NAMES[dtype]}"

            def measure(model: Any = model, dtype: torch.dtype = dtype, name: str = name, kind: str = kind) -> None:
                with attention(model, kind, device):
                    loss, found, computed = shared(model, batch)
                    with blind_to_the_tree():
                        wrong = distance(shared(model, batch)[1], truth)
                note = f"{computed:.2f} of the padded positions computed; against {PEER}"
                if dtype is torch.float32:
                    worst, where = largest(found, truth)
                    report.add(f"{name}: loss", abs(loss - truth_loss) / scale, LOSS, note=note)
                    report.add(f"{name}: largest gradient difference", worst, GRADIENT, note=f"in {where}")
                    report.add(f"{name}: with a wrong mask", wrong, 10 * GRADIENT, least=True)
                else:
                    error = distance(found, truth)
                    report.add(f"{name}: loss", abs(loss - truth_loss), WORSE * own_loss + 0.01 * scale, note=note)
                    report.add(
                        f"{name}: gradient error over the unshared update's", error / own, WORSE,
                        note=f"{error:.2g} and {own:.2g} of the float32 gradient",
                    )  # fmt: skip
                    report.add(f"{name}: with a wrong mask", wrong / own, 2 * WORSE, least=True)

            report.group(name, measure)


# --- sampling --------------------------------------------------------------------------------------------------------


class Recording(ibtpo.Engine):
    """Passes requests on, and keeps what was asked and answered."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.answers: list[tuple[list[int], Completion]] = []

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, seed: int, max_new_tokens: int
    ) -> Completion:
        """See `Engine.generate`."""
        completion = await self.engine.generate(prompt_ids, sampling, seed, max_new_tokens)
        self.answers.append((list(prompt_ids), completion))
        return completion


def coin(completions: Sequence[str], **columns: Any) -> list[float]:
    """A reward that is 1 for about half of all answers, and the same for the same answer."""
    return [float(sum(map(ord, text)) % 2) for text in completions]


def forward_logprobs(model: Any, ids: Sequence[int], start: int, temperature: float) -> torch.Tensor:
    """The log-probs of `ids[start:]` by one forward without a cache, in float32 on the CPU."""
    device = model.get_input_embeddings().weight.device
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits[0, start - 1 : -1]
    logps = (logits.float() / temperature).log_softmax(-1)
    return logps.gather(-1, torch.tensor(ids[start:], device=device)[:, None])[:, 0].cpu()


def gaps(model: Any, high: Any, answers: Sequence[tuple[Sequence[int], Completion]]) -> dict[str, float]:
    """How far an engine's log-probs are from those of a forward without a cache.

    model: what the engine sampled from.
    high: the same weights in float32.
    answers: prompts, and the engine's completions.

    Returns in nats: `most` and `mean`, the differences from the model's own forward; `error` and `own`, the mean
    differences of the engine and of that forward from the float32 one; `wrong`, the mean difference if the
    prompt's last token but one stands at its beginning.
    """
    found: dict[str, list[torch.Tensor]] = {"most": [], "error": [], "own": [], "wrong": []}
    for prompt, completion in answers:
        ids, start = [*prompt, *completion.token_ids], len(prompt)
        ours = torch.tensor(completion.logprobs)
        theirs = forward_logprobs(model, ids, start, TEMPERATURE)
        exact = theirs if high is model else forward_logprobs(high, ids, start, TEMPERATURE)
        late = forward_logprobs(model, [ids[start - 2], *ids[: start - 2], *ids[start - 1 :]], start, TEMPERATURE)
        found["most"].append((ours - theirs).abs())
        found["error"].append((ours - exact).abs())
        found["own"].append((theirs - exact).abs())
        found["wrong"].append((late - exact).abs())
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    means = {name: x.mean().item() for name, x in joined.items()}
    return {**means, "mean": means["most"], "most": joined["most"].max().item()}


def report_gaps(report: Report, name: str, dtype: torch.dtype, found: dict[str, float]) -> None:
    """Adds the log-prob gap of an engine to the report, by the bound of its dtype."""
    if dtype is torch.float32:
        report.add(f"{name}: largest log-prob gap", found["most"], GAP, note=f"mean {found['mean']:.2g} nats")
        report.add(f"{name}: mean gap with a wrong prompt", found["wrong"], 10 * GAP, least=True)
    else:
        note = f"{found['error']:.2g} and {found['own']:.2g} nats; largest gap {found['most']:.2g}"
        report.add(f"{name}: mean error over a plain forward's own", found["error"] / found["own"], WORSE, note=note)
        report.add(
            f"{name}: the same with a wrong prompt", found["wrong"] / found["own"], 2 * WORSE, least=True
        )  # fmt: skip


def check_trees(report: Report, shape: str, device: str, dtype: torch.dtype, prompts: int, length: int) -> None:
    """Token law and log-probs of trees: each trajectory is what the engine answered, token by token."""
    high, low = both_dtypes(shape, device)
    model = high if dtype is torch.float32 else low
    words = model.config.vocab_size
    engine = Recording(TransformersEngine(model, eos_token_ids=[1], max_batch_size=64))
    options = SearchOptions(
        budget=Budget(4, 9, 1, 1), sampling=Sampling(TEMPERATURE, 0.95, 20), max_completion_length=length
    )
    search = TreeSearch(engine, RewardFunctions([coin]), decoder(make_tokenizer(words)), options)
    asked = [Prompt(str(i), tuple(ids), "", {}) for i, ids in enumerate(random_prompts(prompts, 40, words))]
    trees = asyncio.run(search.grow_all(asked))
    sampled = {(tuple(prompt), tuple(completion.token_ids)) for prompt, completion in engine.answers}
    broken, trajectories = 0, []
    for tree in trees:
        for i, rollout in enumerate(tree.rollouts):
            whole, begun = [*tree.prompt_ids, *tree.completion_ids(i)], tree.prefix_ids(rollout.at)
            rest = whole[len(begun) :]
            broken += whole[: len(begun)] != begun or len(rest) != rollout.tokens
            broken += (tuple(begun), tuple(rest)) not in sampled
            answer = Completion(tree.completion_ids(i), tree.completion_logprobs(i), None, tree.leaves[i].stop)
            trajectories.append((tree.prompt_ids, answer))
    name = f"trees, {shape}, {NAMES[dtype]}"
    report.add(f"{name}: trajectories that are not what was sampled", broken, 0)
    report.add(f"{name}: trajectories", len(trajectories), prompts * 12, least=True)
    report_gaps(report, name, dtype, gaps(model, high, trajectories[:: max(1, len(trajectories) // 48)]))


def check_batch_sizes(
    report: Report, shape: str, device: str, dtype: torch.dtype, sizes: Sequence[int], length: int
) -> None:
    """Rollouts do not depend on how many others are in the batch, but for rounding."""
    high, low = both_dtypes(shape, device)
    model = high if dtype is torch.float32 else low
    words = model.config.vocab_size
    prompts = [ids[: 10 + i % 31] for i, ids in enumerate(random_prompts(2 * max(sizes), 40, words))]
    first: list[Completion] = []
    for size in sorted(sizes, reverse=True):
        some = prompts[: max(2 * size, 8)]  # twice as many as there are places, so that places are filled again
        engine = TransformersEngine(model, eos_token_ids=[1], max_batch_size=size)

        async def sample(engine: TransformersEngine = engine, some: list[list[int]] = some) -> list[Completion]:
            asked = [
                (ids, Sampling(TEMPERATURE, 0.95, 20), i, length - i % (length // 2)) for i, ids in enumerate(some)
            ]
            return await asyncio.gather(*(engine.generate(*request) for request in asked))

        found = asyncio.run(sample())
        first = first or found
        name = f"batches of {size}, {shape}, {NAMES[dtype]}"
        same = sum(a.token_ids == b.token_ids for a, b in zip(found, first, strict=False)) / len(found)
        bound = FLIPPED if dtype is torch.float32 else None
        report.add(f"{name}: share with the tokens of batches of {max(sizes)}", same, bound, least=True)
        report_gaps(report, name, dtype, gaps(model, high, list(zip(some, found, strict=True))[:16]))


def check_draws(report: Report, device: str, draws: int) -> None:
    """Tokens are drawn with the probabilities of the full softmax: Pearson's χ² over many draws of one token."""
    model = make_model("tiny", device, torch.float32)
    words = model.config.vocab_size
    prompt = random_prompts(1, 20, words)[0]
    engine = TransformersEngine(model, eos_token_ids=[], max_batch_size=1024)

    async def sample() -> list[Completion]:
        return await asyncio.gather(*(engine.generate(prompt, Sampling(1.0, 1.0, 0), i, 1) for i in range(draws)))

    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in asyncio.run(sample())]), minlength=words).double()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt], device=device)).logits[0, -1].double().cpu()
    expected = draws * logits.softmax(-1)
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    squares = ((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum().item()
    freedom = len(expected) - 1
    report.add(
        "draws follow the softmax: χ² in standard deviations", (squares - freedom) / (2 * freedom) ** 0.5, 5,
        note=f"{draws} draws, {freedom} degrees of freedom",
    )  # fmt: skip


# --- FSDP2 -----------------------------------------------------------------------------------------------------------


def check_fsdp2(report: Report, shape: str, batch: Batch, device: str, length: int) -> None:
    """A model sharded by FSDP2 over this one device: sampled from unsharded, then updated, as it was without FSDP2."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29513"}
    with patch.dict(os.environ, alone):
        mesh = init_device_mesh(device, (1,))
        try:
            model, sharded = (make_model(shape, device, torch.float32) for _ in range(2))
            for m in (model, sharded):
                add_head(m, TEMPERATURE)
            for layer in sharded.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(sharded, mesh=mesh)
            parts = [m for m in sharded.modules() if isinstance(m, FSDPModule)]
            prompts = random_prompts(8, 24, model.config.vocab_size)

            async def sample(m: Any) -> list[Completion]:
                engine = TransformersEngine(m, eos_token_ids=[1])
                asked = (engine.generate(p, Sampling(TEMPERATURE, 1.0, 0), i, length) for i, p in enumerate(prompts))
                return await asyncio.gather(*asked)

            for part in parts:
                part.unshard()
                part.set_reshard_after_forward(False)
            found = asyncio.run(sample(sharded))
            wanted = asyncio.run(sample(model))
            for part in parts:
                # FSDP2's default: the head, which the root holds, stays whole until the backward.
                part.set_reshard_after_forward(part is not sharded, recurse=False)
                part.reshard()
            same = sum(a.token_ids == b.token_ids for a, b in zip(found, wanted, strict=True)) / len(found)
            name = f"FSDP2, {shape}"
            report.add(f"{name}: share of rollouts with the tokens of the whole model", same, FLIPPED, least=True)
            report_gaps(report, name, torch.float32, gaps(model, model, list(zip(prompts, found, strict=True))))
            for m in (model, sharded):
                m.train()
            loss, gradients, _ = shared(sharded, batch)
            expected_loss, expected, _ = shared(model, batch)
            worst, where = largest(gradients, expected)
            scale = batch.weights.abs().mean().item()
            report.add(f"{name}: loss", abs(loss - expected_loss) / scale, LOSS)
            report.add(f"{name}: largest gradient difference", worst, GRADIENT, note=f"in {where}")
        finally:
            dist.destroy_process_group()


def main() -> int:
    """Makes all checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small models, for a CPU")
    parser.add_argument("--seconds", type=float, default=330, help="begin no further checks after so many")
    parser.add_argument("--output", type=Path, default=Path("build/gpu/check.json"), metavar="FILE")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --device cpu --tiny tries the checks without one")
    torch.set_float32_matmul_precision("highest")
    device, float32, bfloat16 = args.device, torch.float32, torch.bfloat16
    small, large = ("tiny", "tiny") if args.tiny else ("smollm2-135m", "qwen3-0.6b")
    size = {"trees": 2, "rows": 6, "prompt": 24, "completion": 20}
    if not args.tiny:
        size = {"trees": 2, "rows": 12, "prompt": 160, "completion": 192}
    length = 12 if args.tiny else 64
    sizes = (1, 3, 16) if args.tiny else (1, 8, 64, 256)
    report = Report(args.output, args.seconds)

    def batch_for(shape: str) -> Batch:
        return tree_batch(SHAPES[shape][1]["vocab_size"], device, **size)

    kinds = ("sdpa", "flex_attention")
    report.group("shared prefixes", lambda: check_update(report, small, batch_for(small), device, kinds))
    trees = 2 if args.tiny else 8
    for d in (float32, bfloat16):
        report.group(f"trees, {NAMES[d]}", lambda d=d: check_trees(report, small, device, d, trees, length))
        report.group(
            f"batches, {NAMES[d]}", lambda d=d: check_batch_sizes(report, small, device, d, sizes, length // 2)
        )
    report.group("draws", lambda: check_draws(report, device, 2000 if args.tiny else 20000))
    report.group("FSDP2", lambda: check_fsdp2(report, small, batch_for(small), device, length))
    with tempfile.TemporaryDirectory() as folder:
        report.group("kill and resume sampling", lambda: killed_sampling(report, Path(folder), device))
        if large != small:
            report.group("shared prefixes", lambda: check_update(report, large, batch_for(large), device, kinds))
            report.group("trees, bfloat16", lambda: check_trees(report, large, device, bfloat16, 8, length))
        if HAVE_TRL:
            report.group("kill and resume training", lambda: killed_training(report, Path(folder), device))
        else:
            report.skip("kill and resume training", "TRL is not installed: scripts/gpu/wheels.sh collects it")
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
