"""Times a question: a (4,9,1,1) tree, with and without `lookahead`, against 8 independent answers at equal tokens.

For each number of prompts in flight, both are sampled for the same questions by the same engine. The time of the
independent answers is scaled to the tokens that the tree generated.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import workload
from harness import Row, paired, row, write

from ibtpo.engines import Sampling
from ibtpo.engines.models import decoder, eos_token_ids
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.search import Budget, SearchOptions, TreeSearch
from ibtpo.verify.pool import VerifierPool

PROMPTS = (1, 2, 4, 8, 16, 32, 64, 128)


# (prompts, tree, lookahead) -> seconds and generated tokens.
Grow = Callable[[int, Budget, int], tuple[float, int]]


def curve(
    grow: Grow, counts: Sequence[int], lookaheads: Sequence[int], runs: int, name: str, *, warm_up: bool = True
) -> Iterator[Row]:
    """Makes a row for each number of prompts and each lookahead.

    grow: samples trees for so many prompts and times it.
    counts, lookaheads: what is tried.
    runs: how many pairs are measured for a row.
    name: what the rows' names begin with.
    warm_up: whether each pair is first measured once without being counted.
    """
    for count in counts:
        for lookahead in lookaheads:
            tokens = []

            def ours(count: int = count, lookahead: int = lookahead, tokens: list[int] = tokens) -> float:
                seconds, generated = grow(count, Budget(4, 9, 1, 1), lookahead)
                tokens.append(generated)
                return 1000 * seconds / count

            def theirs(count: int = count, tokens: list[int] = tokens) -> float:
                seconds, generated = grow(count, Budget(8, 1, 1, 1), 0)
                return 1000 * seconds / count * tokens[-1] / generated

            title = f"{name}, {count} prompts" + (f", lookahead {lookahead}" if lookahead else "")
            figures = paired(ours, theirs, runs, warm_up=warm_up)
            yield row(title, "8 independent answers, scaled to equal tokens", *figures, "ms", 1.0, more_is_better=False)


def main(runs: int = 5) -> None:
    """Writes a row for each number of prompts, with lookahead 0 and with lookahead 3.

    runs: how many pairs are measured for a row.
    """
    torch.set_num_threads(1)  # so small a model is slower with more threads
    model, tokenizer, prompts = workload.nano(max(PROMPTS))
    eos = eos_token_ids(model, tokenizer)
    decode = decoder(tokenizer)
    rows: list[Row] = []
    with VerifierPool("walk") as verifier:

        def grow(count: int, budget: Budget, lookahead: int) -> tuple[float, int]:
            engine = TransformersEngine(model, eos_token_ids=eos, max_batch_size=128)
            options = SearchOptions(
                budget=budget, sampling=Sampling(1.0, 1.0, 0), max_completion_length=36, max_in_flight=128,
                deterministic=True, lookahead=lookahead,
            )  # fmt: skip
            begin = time.perf_counter()
            asyncio.run(TreeSearch(engine, verifier, decode, options).grow_all(prompts[:count]))
            return time.perf_counter() - begin, engine.generated_tokens

        for found in curve(grow, PROMPTS, (0, 3), runs, "a question, tree of 12"):
            print(found, flush=True)
            rows.append(found)
    write(rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
