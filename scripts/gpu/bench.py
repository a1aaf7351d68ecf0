"""Times sampling, the update and a training step on a GPU, with random weights in the shape of real models.

python scripts/gpu/bench.py [--device cuda|cpu] [--tiny] [--seconds N] [--output FILE]

Every row compares ours with a peer in the same run; docs/engines.md, "The GPU suite", says what is measured.
"""

import argparse
import asyncio
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from check import coin
from gpu_report import card
from shapes import make_model, make_tokenizer, random_prompts, tree_batch
from trajectories import HAVE_TRL, PEER, add_head, packer, plain

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from harness import Row, machine, paired, row, write
from in_flight import curve
from peers import BarrierEngine, generate_batch

from ibtpo.engines import Engine, Sampling
from ibtpo.engines.models import decoder
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.verify.rewards import RewardFunctions

ROOT = Path(__file__).resolve().parents[2]
SAMPLING = Sampling(0.7, 0.95, 20)  # the paper's


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    shapes: of the models, in the order in which they are measured.
    dtype: the name of the weights' type.
    prompts, prompt: how many prompts, and tokens of each.
    plain, tree: most tokens of an answer of a plain rollout, and of a tree.
    runs: pairs a row.
    counts: prompts in flight of the curve.
    rows, completion: of a tree in the update, and tokens of each row.
    questions: of a training step.
    """

    shapes: tuple[str, ...] = ("smollm2-135m", "qwen3-0.6b")
    dtype: str = "bfloat16"
    prompts: int = 64
    prompt: int = 96
    plain: int = 128
    tree: int = 64
    runs: int = 3
    counts: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    rows: int = 12
    completion: int = 384
    questions: int = 16


TINY = Sizes(
    shapes=("tiny",), dtype="float32", prompts=4, prompt=16, plain=8, tree=8, runs=2, counts=(2, 4), rows=6,
    completion=24, questions=2,
)  # fmt: skip


class Bench:
    """A model of one shape, and its rows.

    shape: a name in `shapes.SHAPES`.
    sizes: how much is measured.
    device: where the model is.
    """

    def __init__(self, shape: str, sizes: Sizes, device: str) -> None:
        self.shape, self.sizes, self.device = shape, sizes, device
        self.model = make_model(shape, device, getattr(torch, sizes.dtype))
        self.words: int = self.model.config.vocab_size
        self.prompts = random_prompts(max(sizes.prompts, *sizes.counts), sizes.prompt, self.words)
        self.title = f"{shape}, random weights, {sizes.dtype}"

    def synchronize(self) -> None:
        """Waits until the device has done all it was asked for."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    # --- sampling ----------------------------------------------------------------------------------------------------

    def ours(self, rows: int | None = None) -> TransformersEngine:
        """A new engine of ours for so many rows. No token ends an answer, so that all peers sample equally many."""
        return TransformersEngine(self.model, eos_token_ids=[], max_batch_size=rows or self.sizes.prompts)

    def plain_speed(self, engine: Any) -> float:
        """Tokens a second of independent answers to all prompts."""
        prompts, most = self.prompts[: self.sizes.prompts], self.sizes.plain

        async def sample() -> None:
            await asyncio.gather(*(engine.generate(p, SAMPLING, i, most) for i, p in enumerate(prompts)))

        begin = time.perf_counter()
        asyncio.run(sample())
        return len(prompts) * most / (time.perf_counter() - begin)

    def grow(self, engine: Engine | Any, count: int, budget: Budget, lookahead: int = 0) -> tuple[float, int]:
        """Seconds that trees for the first `count` prompts take, and the tokens generated for them."""
        options = SearchOptions(
            budget=budget, sampling=SAMPLING, max_completion_length=self.sizes.tree, max_in_flight=512,
            lookahead=lookahead,
        )  # fmt: skip
        asked = [Prompt(str(i), tuple(ids), "", {}) for i, ids in enumerate(self.prompts[:count])]
        search = TreeSearch(engine, RewardFunctions([coin]), decoder(make_tokenizer(self.words)), options)
        begin = time.perf_counter()
        asyncio.run(search.grow_all(asked))
        return time.perf_counter() - begin, engine.generated_tokens

    def tree_speed(self, engine: Any) -> float:
        """Tokens a second of (4,9,1,1) trees for all prompts."""
        before = engine.generated_tokens
        seconds, tokens = self.grow(engine, self.sizes.prompts, Budget(4, 9, 1, 1))
        return (tokens - before) / seconds

    def sampling(self) -> list[Row]:
        """Plain rollouts and trees of our engine against `model.generate`, and vLLM where it is installed."""
        sizes, batch = self.sizes, generate_batch(self.model, [], 0)

        def generate() -> float:
            begin = time.perf_counter()
            batch(self.prompts[: sizes.prompts], SAMPLING, [sizes.plain] * sizes.prompts)
            return sizes.prompts * sizes.plain / (time.perf_counter() - begin)

        figures = paired(lambda: self.plain_speed(self.ours()), generate, sizes.runs)
        plain_name = f"plain rollouts, {self.title}, batch {sizes.prompts}, {sizes.plain} tokens"
        rows = [row(plain_name, "model.generate", *figures, "tokens/s", 1.5, more_is_better=True)]
        figures = paired(
            lambda: self.tree_speed(self.ours()), lambda: self.tree_speed(BarrierEngine(batch, [], sizes.prompts)),
            max(1, sizes.runs - 1), warm_up=False,
        )  # fmt: skip
        tree_name = f"tree rollouts, {self.title}, {sizes.prompts} prompts, (4,9,1,1)"
        rows.append(row(tree_name, "model.generate in rounds", *figures, "tokens/s", 2.0, more_is_better=True))
        if self.device == "cuda" and importlib.util.find_spec("vllm") is not None:
            rows += self.against_vllm(plain_name, tree_name)
        return rows

    def against_vllm(self, plain_name: str, tree_name: str) -> list[Row]:
        """The same against vLLM, which is asked by our search as our engine is."""
        from ibtpo.engines.vllm import VLLMEngine, open_llm

        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            theirs = VLLMEngine(
                open_llm(
                    folder, dtype=self.sizes.dtype, max_batch_size=self.sizes.prompts, kv_memory_gb=8,
                    gpu_memory_utilization=0.4,
                ),
                eos_token_ids=[],
            )  # fmt: skip

        def forgotten(speed: Callable[[Any], float]) -> float:
            theirs.reset_cache()
            return speed(theirs)

        rows = []
        for name, speed, target in ((plain_name, self.plain_speed, 1.5), (tree_name, self.tree_speed, 2.0)):
            figures = paired(lambda s=speed: s(self.ours()), lambda s=speed: forgotten(s), self.sizes.runs)
            rows.append(row(name, "vllm", *figures, "tokens/s", target, more_is_better=True))
        return rows

    def in_flight(self) -> list[Row]:
        """Trees against independent answers at equal tokens, for each number of prompts in flight."""
        name = f"a question, tree of 12, {self.title}"
        return list(
            curve(lambda *asked: self.grow(self.ours(512), *asked), self.sizes.counts, (0,), 1, name, warm_up=False)
        )

    def decode_step(self) -> list[Row]:
        """How much of a decode step the device is busy: the rest is Python, launches and waiting."""
        new, prompts = self.sizes.plain // 2, self.prompts[: self.sizes.prompts]

        def sample() -> None:
            async def all_of_them() -> None:
                engine = self.ours()
                await asyncio.gather(*(engine.generate(p, SAMPLING, i, new) for i, p in enumerate(prompts)))

            asyncio.run(all_of_them())

        def wall() -> float:
            begin = time.perf_counter()
            sample()
            return 1000 * (time.perf_counter() - begin) / new

        figures = paired(wall, lambda: 1000 * self.busy(sample) / new, 2)
        found = row(
            f"decode step, {self.title}, batch {len(prompts)}", "its kernels alone", *figures, "ms", 0.7,
            more_is_better=False,
        )  # fmt: skip
        bound = "Python and launches bound" if found.ratio < 0.7 else "kernels bound"
        found.note = (
            f"{100 * found.ratio:.0f} % of the time in kernels: {bound} the step; the prompts' forward included"
        )
        return [found]

    def busy(self, sample: Callable[[], None]) -> float:
        """Seconds that the device spends in kernels, by torch.profiler; on a CPU in PyTorch's operations."""
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self.device == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
            sample()
            self.synchronize()
        events = profiled.key_averages()
        if on_gpu:
            kernels = (e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation)
            times = [e.self_device_time_total for e in kernels]
        else:
            times = [e.self_cpu_time_total for e in events]
        return sum(times) / 1e6

    # --- training ----------------------------------------------------------------------------------------------------

    def update(self) -> list[Row]:
        """Forward and backward with shared prefixes against every trajectory: time, and peak memory on a GPU."""
        sizes = self.sizes
        model = make_model(self.shape, self.device, getattr(torch, sizes.dtype))
        add_head(model, SAMPLING.temperature)
        model.train()
        batch = tree_batch(
            self.words, self.device, trees=1, rows=sizes.rows, prompt=2 * sizes.prompt, completion=sizes.completion
        )
        shares = packer(model)
        peaks: dict[str, float] = {}

        def measure(way: str, forward: Callable[..., Any]) -> float:
            model.zero_grad()
            self.synchronize()
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            begin = time.perf_counter()
            batch.loss(*forward(model, batch.ids, batch.mask, batch.keep, compute_entropy=True)[:2]).backward()
            self.synchronize()
            seconds = time.perf_counter() - begin
            if self.device == "cuda":
                peaks[way] = (torch.cuda.max_memory_allocated() - before) / 1e6
            return 1000 * seconds

        figures = paired(
            lambda: measure("ours", lambda *a, **o: shares(plain, *a, **o)), lambda: measure("theirs", plain),
            sizes.runs + 2,
        )  # fmt: skip
        if shares.disabled:
            raise RuntimeError(f"the shared-prefix update is off: {shares.disabled}")
        name = f"update, {self.title}, a tree of {sizes.rows}, prompts of {2 * sizes.prompt}, {sizes.completion} tokens"
        note = f"{shares.computed:.2f} of the padded positions computed"
        target = 0.8 / shares.computed
        rows = [row(name, PEER, *figures, "ms", target, more_is_better=False, note=note)]
        if peaks:
            ratio = peaks["theirs"] / peaks["ours"]
            sizes_of = (peaks["ours"], peaks["theirs"])
            rows.append(Row(f"{name}: peak memory", PEER, *sizes_of, "MB", ratio, 1.0, 1, machine()))
        return rows

    def save(self, folder: str) -> None:
        """Writes model and tokenizer to a folder."""
        self.model.save_pretrained(folder)
        make_tokenizer(self.words).save_pretrained(folder)

    def step(self) -> list[Row]:
        """A full training step against TRL's `GRPOTrainer`, with the same model, questions and answers a question."""
        import step
        from trl import GRPOTrainer

        from ibtpo import IBTPOTrainer

        sizes = self.sizes
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            data = Path(folder) / "questions.jsonl"
            texts = make_tokenizer(self.words).batch_decode(self.prompts[: sizes.questions])
            data.write_text("".join(json.dumps({"question": text, "answer": "-"}) + "\n" for text in texts))
            options = {
                "max_completion_length": sizes.tree, "temperature": SAMPLING.temperature, "top_p": SAMPLING.top_p,
                "top_k": SAMPLING.top_k, "use_cpu": self.device == "cpu",
            }  # fmt: skip
            rows = step.GROUP * max(1, sizes.questions // 4)
            setup = step.Setup(
                self.title, folder, str(data), None, (coin, coin), options, rows, (sizes.questions,), sizes.dtype
            )
            figures = paired(
                lambda: step.one(IBTPOTrainer, setup, sizes.questions, 1),
                lambda: step.one(GRPOTrainer, setup, sizes.questions, 1), 1, warm_up=False,
            )  # fmt: skip
        name = f"full training step, {self.title}, {sizes.questions} questions, G={step.GROUP}"
        return [row(name, "TRL GRPOTrainer", *figures, "ms a trained token", 1 / 0.7, more_is_better=False)]


def main() -> int:
    """Measures everything that fits into the time, and writes the rows; returns 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a small model and few rollouts, for a CPU")
    parser.add_argument("--seconds", type=float, default=330, help="begin nothing further after so many")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results-gpu.json", metavar="FILE")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --device cpu --tiny tries the benchmarks without one")
    began, failed = time.monotonic(), 0
    sizes = TINY if args.tiny else Sizes()
    print(f"card: {card()}", flush=True)
    for shape in sizes.shapes:
        bench = Bench(shape, sizes, args.device)
        parts: list[Callable[[], list[Row]]] = [bench.decode_step, bench.update, bench.sampling]
        if shape == sizes.shapes[0]:
            parts.append(bench.in_flight)
        if HAVE_TRL:
            parts.append(bench.step)
        for part in parts:
            name = f"{part.__name__}, {shape}"
            if time.monotonic() - began > args.seconds:
                print(f"skip {name}: {args.seconds:.0f} s had passed", flush=True)
                continue
            try:
                rows = part()
            except Exception as e:
                failed += 1
                print(f"FAIL {name}: {type(e).__name__}: {' '.join(str(e).split())[:300]}", flush=True)
                continue
            write(rows, args.output, "scripts/gpu/bench.sh")
            for r in rows:
                target = f" (target {r.target:.2f})"
                figures = f"{r.ours:.4g} beside {r.theirs:.4g} {r.unit} of {r.peer}, ratio {r.ratio:.2f}{target}"
                print(f"{r.name}: {figures}" + (f"; {r.note}" if r.note else ""), flush=True)
    if not HAVE_TRL:
        print("skip full training step: TRL is not installed (scripts/gpu/wheels.sh collects it)")
    print(f"{time.monotonic() - began:.0f} s; {failed} parts failed; {args.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
