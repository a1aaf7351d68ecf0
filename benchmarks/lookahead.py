"""Measures what `lookahead`, which chooses from older scores, does to the trees of the embedded model."""

import asyncio
import json
import sys

import numpy as np
import torch
import workload
from harness import HERE

from ibtpo.engines import Sampling
from ibtpo.engines.models import decoder, eos_token_ids
from ibtpo.engines.transformers import TransformersEngine
from ibtpo.metrics import tree_record
from ibtpo.score import ScoreOptions
from ibtpo.search import Budget, SearchOptions, TreeSearch
from ibtpo.verify.pool import VerifierPool


def main(problems: int = 512) -> None:
    """Prints and writes the mean of each number, and its paired difference to lookahead 0 with a 95 % interval.

    problems: how many questions get a tree.
    """
    torch.set_num_threads(1)
    model, tokenizer, prompts = workload.nano(problems)
    engine = TransformersEngine(model, eos_token_ids=eos_token_ids(model, tokenizer), max_batch_size=128)
    rng = np.random.default_rng(0)
    samples = rng.integers(0, problems, (10_000, problems))
    result, base = {}, {}
    with VerifierPool("walk") as verifier:
        for lookahead in (0, 1, 3, 8):
            options = SearchOptions(
                budget=Budget(4, 9, 1, 1), sampling=Sampling(1.0, 1.0, 0), score=ScoreOptions(confidence="joint"),
                max_completion_length=36, max_in_flight=128, deterministic=True, lookahead=lookahead,
            )  # fmt: skip
            trees = asyncio.run(TreeSearch(engine, verifier, decoder(tokenizer), options).grow_all(prompts))
            records = [tree_record(t, options.score) for t in trees]
            out = {}
            for name in ("eff_rate", "avg_rate", "pass_at_g", "generated_tokens"):
                values = np.array([r[name] for r in records])
                base.setdefault(name, values)
                change = values - base[name]
                out[name] = {
                    "mean": values.mean(),
                    "change": change.mean(),
                    "ci": np.percentile(change[samples].mean(1), [2.5, 97.5]).tolist(),
                }
            result[lookahead] = out
            print(lookahead, json.dumps(out), flush=True)
    (HERE / "lookahead.json").write_text(json.dumps({"problems": problems, "lookahead": result}, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
