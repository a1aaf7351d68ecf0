"""Measures vLLM as a peer. It reads a job as JSON from stdin, and writes its figures as JSON to stdout.

Run it with the python of vLLM's own environment. vLLM gets its best settings for a CPU with two cores: both of them
bound, tcmalloc and Intel's OpenMP preloaded, and the model compiled. To have them in the environment from the start,
the script starts itself once more.
"""

import asyncio
import glob
import json
import os
import subprocess
import sys
import time
from typing import Any


def best_environment() -> dict[str, str]:
    """The environment variables that vLLM's documentation asks for on a CPU."""
    env = dict(os.environ)
    env.pop("OMP_NUM_THREADS", None)
    env["VLLM_CPU_OMP_THREADS_BIND"] = "0-1"
    env["VLLM_CPU_KVCACHE_SPACE"] = "2"
    env["VLLM_LOGGING_LEVEL"] = "ERROR"
    found = glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4") + glob.glob(f"{sys.prefix}/lib/libiomp5.so")
    if len(found) < 2:
        print("warning: tcmalloc or libiomp5 not found; vLLM is slower without", file=sys.stderr)
    env["LD_PRELOAD"] = ":".join(found)
    env["PEER_READY"] = "1"
    return env


def main() -> None:
    """Runs the job on stdin and writes its figures, tokens a second of each run, to stdout.

    A job is {"kind": "plain", "model", "prompts", "new_tokens", "runs"} or {"kind": "trees", "model", "runs"}.
    """
    job = json.loads(sys.stdin.read())
    from vllm import LLM

    # What vLLM's workers print must not get between the figures, so it goes to stderr.
    out = os.dup(1)
    os.dup2(2, 1)
    llm = LLM(model=job["model"], dtype="float32", max_num_seqs=64, max_model_len=2048, enable_prefix_caching=True)
    figures = []
    for _ in range(job["runs"]):
        llm.reset_prefix_cache()
        figures.append(plain(llm, job) if job["kind"] == "plain" else trees(llm))
    os.write(out, (json.dumps(figures) + "\n").encode())


def plain(llm: Any, job: dict[str, Any]) -> float:
    """The tokens a second of one batch of independent rollouts."""
    from vllm import SamplingParams, TokensPrompt

    params = [
        SamplingParams(
            temperature=0.7, top_p=0.95, top_k=20, max_tokens=job["new_tokens"], ignore_eos=True, seed=i,
            detokenize=False,
        )
        for i in range(len(job["prompts"]))
    ]  # fmt: skip
    prompts = [TokensPrompt(prompt_token_ids=p) for p in job["prompts"]]
    begin = time.perf_counter()
    results = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - begin
    return sum(len(r.outputs[0].token_ids) for r in results) / seconds


def trees(llm: Any) -> float:
    """The tokens a second of (4,9,1,1) trees grown in rounds, each a batch call; vLLM caches their prefixes."""
    import workload
    from peers import BarrierEngine
    from vllm import SamplingParams, TokensPrompt

    from ibtpo.engines.models import decoder, eos_token_ids
    from ibtpo.search import TreeSearch
    from ibtpo.verify.pool import VerifierPool

    model, tokenizer, prompts = workload.smollm2(workload.TREES)
    options, eos = workload.tree_options(small=False), eos_token_ids(model, tokenizer)

    def batch(ids: list[list[int]], sampling: Any, most: list[int]) -> list[tuple[list[int], list[float]]]:
        params = [
            SamplingParams(
                temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, max_tokens=n,
                stop_token_ids=list(eos), logprobs=0, detokenize=False,
            )
            for n in most
        ]  # fmt: skip
        results = llm.generate([TokensPrompt(prompt_token_ids=p) for p in ids], params, use_tqdm=False)
        answers = [r.outputs[0] for r in results]
        return [
            (list(a.token_ids), [next(iter(d.values())).logprob for d in a.logprobs]) for a in answers
        ]  # These log-probs are not those of the distribution that tokens were drawn from; speed does not depend on it.

    with VerifierPool("math") as verifier:
        engine = BarrierEngine(batch, eos, size=64)
        begin = time.perf_counter()
        asyncio.run(TreeSearch(engine, verifier, decoder(tokenizer), options).grow_all(prompts))
        return engine.generated_tokens / (time.perf_counter() - begin)


if __name__ == "__main__":
    if "PEER_READY" not in os.environ:
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=best_environment()).returncode)
    main()
