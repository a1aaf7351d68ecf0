"""The server engine against small HTTP servers in this process."""

import asyncio
import contextlib
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx2")
from helpers.fake_server import EOS, VOCAB, FakeServer, completion, error, log_softmax, logits, ok
from ibtpo.engines import Sampling
from ibtpo.engines.connect import connect
from ibtpo.engines.server import ServerEngine
from ibtpo.errors import ConfigError, EngineError
from ibtpo.search import Budget, Prompt, SearchOptions, TreeSearch
from ibtpo.verify import Verdict

SAMPLING = Sampling(0.7, 0.9, 6)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("IBTPO_SERVER_API_KEY", raising=False)


@contextlib.contextmanager
def servers(count: int, **options: Any) -> Iterator[list[FakeServer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeServer(**options)) for _ in range(count)]


def engine_of(*fakes: FakeServer, **options: Any) -> ServerEngine:
    options = {"logprobs": "full", "backoff": 0.01, **options}
    return connect([f.url for f in fakes], vocab_size=VOCAB, eos_token_ids=[EOS], **options)


def ask(engine: ServerEngine, prompt: list[int] = [5, 6], seed: int = 0, room: int = 12) -> Any:  # noqa: B006
    return asyncio.run(engine.generate(prompt, SAMPLING, seed, room))


class AlwaysRight:
    names = ("right",)

    def score(self, rows: list[dict[str, Any]]) -> list[Verdict]:
        return [Verdict(1.0, (1.0,)) for _ in rows]

    async def ascore(self, rows: list[dict[str, Any]]) -> list[Verdict]:
        return self.score(rows)


def search_of(engine: ServerEngine) -> TreeSearch:
    options = SearchOptions(
        budget=Budget(3, 4),
        sampling=SAMPLING,
        splitter="tokens:4",
        max_completion_length=16,
        retries=0,
        max_in_flight=8,
    )
    return TreeSearch(engine, AlwaysRight(), lambda ids: "".join(map(str, ids)), options)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"q{i}", (4 + i % 6, 2 + i // 6, 3), f"q{i}") for i in range(count)]


# --- one server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owned_by", ["vllm", "sglang"])
def test_token_ids_and_full_softmax_logprobs_come_back_as_sampled(owned_by: str) -> None:
    with FakeServer(owned_by=owned_by) as fake:
        engine = engine_of(fake)
        for seed in range(8):
            c = ask(engine, seed=seed)
            last = 6
            for token, lp in zip(c.token_ids, c.logprobs, strict=True):
                assert lp == pytest.approx(log_softmax(logits(last) / 0.7)[token], abs=1e-9)
                last = token
            assert c.stop_reason == ("eos" if c.token_ids[-1] == EOS else "length")
            assert EOS not in c.token_ids[:-1]
            assert len(c.token_ids) == 12 or c.stop_reason == "eos"
            assert c.cached_tokens == (3 if owned_by == "vllm" else 1)


def test_the_request_spells_out_what_a_server_would_take_from_its_own_defaults() -> None:
    with FakeServer() as fake:
        ask(engine_of(fake), seed=2**63 + 5, room=7)
        sent = fake.requests[-1]
    expected = {
        "prompt": [5, 6], "max_tokens": 7, "temperature": 0.7, "top_p": 0.9, "top_k": 6, "seed": 5, "min_p": 0.0,
        "repetition_penalty": 1.0, "ignore_eos": True, "stop_token_ids": [EOS], "model": "toy",
    }  # fmt: skip
    assert {k: sent[k] for k in expected} == expected


def test_the_same_seed_gives_the_same_tokens_and_seeds_differ() -> None:
    with servers(2) as fakes:
        engine = engine_of(*fakes)
        runs = [[ask(engine, seed=s).token_ids for s in range(6)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({tuple(ids) for ids in runs[0]}) > 1


@pytest.mark.parametrize("owned_by", ["vllm", "sglang"])
@pytest.mark.parametrize("kind", ["full", "processed", "raw"])
def test_the_kind_of_logprobs_is_found_out_and_told_unless_full(kind: str, owned_by: str) -> None:
    with FakeServer(logprobs=kind, owned_by=owned_by) as fake, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = engine_of(fake, logprobs=None)
        assert engine.logprobs == kind
        asyncio.run(engine.generate([5, 6], Sampling(1.0, 1.0, 0), 0, 4))
        # Without a filter and at temperature 1, all kinds are the same.
        assert not [w for w in caught if "log-probs" in str(w.message)]
        ask(engine)
        ask(engine)
    told = [str(w.message) for w in caught if "log-probs" in str(w.message)]
    assert len(told) == (kind != "full")  # once
    assert all("processed_logits" in t for t in told)


def test_the_servers_context_length_counts_when_it_is_shorter() -> None:
    with FakeServer(max_model_len=20) as fake:
        engine = engine_of(fake, max_length=256)
        assert engine.max_length == 20
        with pytest.raises(EngineError, match="20 tokens and the model's context holds 20"):
            ask(engine, [5] * 20)
        assert len(ask(engine, [5] * 18, room=100).token_ids) <= 2


def test_the_api_key_travels_in_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBTPO_SERVER_API_KEY", "secret")
    with FakeServer() as fake:
        ask(engine_of(fake))
        assert {h.get("Authorization") for h in fake.headers} == {"Bearer secret"}


def test_a_proxy_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(model="behind-the-proxy") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        seen: list[str] = []

        def script(path: str, body: Any, number: int) -> Any:
            seen.append(path)
            if path.endswith("/v1/models"):
                return ok({"data": [{"id": "behind-the-proxy", "owned_by": "vllm"}]})
            return ok(completion([3], [-0.5]))

        proxy.script = script
        engine = connect(["http://far.away:8000"], vocab_size=VOCAB, eos_token_ids=[EOS], logprobs="full")
        assert ask(engine, room=1).token_ids == [3]
    assert seen == ["http://far.away:8000/v1/models", "http://far.away:8000/v1/completions"]


# --- answers that cannot be used -------------------------------------------------------------------------------

BAD_ANSWERS: dict[str, tuple[Any, str]] = {
    "no log-probs": (ok({"choices": [{"token_ids": [3], "finish_reason": "length"}]}), "no log-probs"),
    "fewer log-probs": (ok(completion([3, 4], [-1.0])), "2 tokens but 1 log-probs"),
    "null log-prob": (ok(completion([3], [None])), "None as a log-prob"),
    "NaN log-prob": (ok(completion([3], [float("nan")])), "nan as a log-prob"),
    "raw logits": (ok(completion([3], [12.5])), "12.5 as a log-prob.*never above 0"),
    "no tokens": (ok(completion([], [])), "no tokens"),
    "too many tokens": (ok(completion([3] * 13, [-1.0] * 13)), "13 tokens where 12"),
    "unknown token": (ok(completion([99], [-1.0])), "up to 99.*knows 10.*same model"),
    "text in place of ids": (
        ok({"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}, "finish_reason": "length"}]}),
        "no token ids",
    ),
    "aborted": (ok(completion([3], [-1.0], "abort")), "finish reason 'abort'"),
    "stopped by itself": (ok(completion([3], [-1.0], "stop")), "after 1 of 12 tokens"),
    "no choices": (ok({"choices": []}), "not a completions answer"),
    "another shape": (ok([1, 2]), "not a completions answer"),
    "HTML": ((200, {"Content-Type": "text/html"}, b"<html>welcome</html>"), "not answer with JSON.*<html>welcome"),
    "bad request": (error(400, "max_tokens is too large: 9"), "refuses the request: HTTP 400: max_tokens is too"),
    "unknown model": (error(404, "The model `x` does not exist."), "HTTP 404: The model `x` does not exist"),
    "wrong key": (error(401, "Unauthorized"), "HTTP 401: Unauthorized; put the server's key into IBTPO_SERVER_API_KEY"),
    "redirect": ((307, {"Location": "http://else"}, b""), "HTTP 307.*URL it redirects to"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_an_answer_that_cannot_be_used_is_an_error_that_says_what_is_wrong(case: str) -> None:
    reply, pattern = BAD_ANSWERS[case]
    with FakeServer(script=lambda path, body, n: reply if body else None) as fake:
        engine = engine_of(fake)
        with pytest.raises(EngineError, match=pattern) as caught:
            ask(engine)
        assert len(fake.requests) == 1  # trying again would not help
    assert fake.url in str(caught.value) or "server" in str(caught.value)


def test_sglang_without_logprobs_or_with_another_shape_is_an_error() -> None:
    for body, pattern in (({"meta_info": {}}, "no log-probs"), ({"text": "x"}, "not a generate answer")):
        fake = FakeServer(owned_by="sglang", script=lambda path, b, n, body=body: ok(body) if b else None)
        with fake, pytest.raises(EngineError, match=pattern):
            ask(engine_of(fake))


def test_ids_are_read_from_token_names_where_a_server_has_no_field_for_them() -> None:
    body = completion([3, 4], [-0.5, -0.6])
    del body["choices"][0]["token_ids"]
    with FakeServer(script=lambda path, b, n: ok(body) if b else None) as fake:
        assert ask(engine_of(fake), room=2).token_ids == [3, 4]


# --- failures that pass ----------------------------------------------------------------------------------------


def failing(count: int, reply: Any) -> Callable[[str, Any, int], Any]:
    return lambda path, body, number: reply if body and number <= count else None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    with FakeServer() as plain:
        expected = ask(engine_of(plain)).token_ids
    with FakeServer(script=failing(2, error(status, "try later"))) as fake:
        assert ask(engine_of(fake)).token_ids == expected
        assert len(fake.requests) == 3


def test_a_failure_that_stays_ends_in_an_error_with_the_servers_message() -> None:
    with FakeServer(script=failing(10**9, error(500, "CUDA out of memory"))) as fake:
        with pytest.raises(EngineError, match=r"HTTP 500: CUDA out of memory; tried 3 times"):
            ask(engine_of(fake, retries=2))
        assert len(fake.requests) == 3


@pytest.mark.parametrize("when", ["0.2", "date", "nonsense"])
def test_a_busy_server_is_given_the_time_it_asks_for(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if when == "date":
        when = "Wed, 21 Oct 2015 07:28:00 GMT"  # past: at once
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    with FakeServer(script=failing(1, error(503, "warming up", Retry_After=when))) as fake:
        engine = engine_of(fake)
        monkeypatch.setattr("ibtpo.engines.server.asyncio.sleep", record)
        ask(engine)
    assert pauses == [0.0, 0.2 if when == "0.2" else 0.01]


BROKEN = (200, {"Content-Encoding": "gzip"}, b"this is no gzip")


def test_an_answer_that_cannot_be_decompressed_is_tried_again() -> None:
    with FakeServer() as plain:
        expected = ask(engine_of(plain)).token_ids
    with FakeServer(script=failing(1, BROKEN)) as fake:
        assert ask(engine_of(fake)).token_ids == expected
        assert len(fake.requests) == 2
    with FakeServer(script=failing(10**9, BROKEN)) as fake:
        with pytest.raises(EngineError, match=r"decompressing data.*; tried 2 times"):
            ask(engine_of(fake, retries=1))
        with pytest.raises(EngineError, match=rf"{fake.url} answered and then did not: .*decompressing data"):
            engine_of(fake, logprobs=None)
    fake = FakeServer(script=lambda path, body, n: BROKEN)
    with fake, pytest.raises(EngineError, match=rf"no server answers \({fake.url}: .*decompressing data"):
        engine_of(fake)


def test_a_server_that_never_answers_is_a_time_out_that_says_so() -> None:
    with FakeServer(delay=5.0) as fake, pytest.raises(EngineError, match=r"no answer within 0.2 s; raise the timeout"):
        ask(engine_of(fake, timeout=0.2, retries=0))


# --- replicas --------------------------------------------------------------------------------------------------


def test_all_requests_of_a_tree_go_to_one_replica_and_trees_are_spread() -> None:
    with servers(3) as fakes:
        engine = engine_of(*fakes)
        trees = asyncio.run(search_of(engine).grow_all(prompts(12)))
        roots = [{tuple(r["prompt"][:3]) for r in fake.requests} for fake in fakes]
        counts = [len(fake.requests) for fake in fakes]
    assert all(not a & b for i, a in enumerate(roots) for b in roots[i + 1 :])
    assert sum(len(r) for r in roots) == 12
    assert min(len(r) for r in roots) >= 2
    assert sum(counts) == 12 * 6
    assert all(len(tree.leaves) == 6 for tree in trees)


def test_a_replica_killed_while_trees_grow_loses_none_and_changes_none() -> None:
    with servers(1) as fakes:
        expected = asyncio.run(search_of(engine_of(*fakes)).grow_all(prompts(8)))
    with servers(2, delay=0.01) as fakes:
        engine = engine_of(*fakes)
        fakes[0].script = lambda path, body, number: fakes[0].kill() if body and number == 9 else None
        trees = asyncio.run(search_of(engine).grow_all(prompts(8)))
        assert fakes[0].dead
        assert 9 <= len(fakes[0].requests) < 24  # then the other one served its trees, too
        assert len(fakes[1].requests) > 24
    for tree, other in zip(trees, expected, strict=True):
        assert [tree.completion_ids(i) for i in range(6)] == [other.completion_ids(i) for i in range(6)]


def test_when_all_are_gone_the_error_names_them_and_finished_trees_are_kept() -> None:
    with servers(2, delay=0.005) as fakes:
        engine = engine_of(*fakes, retries=1)
        kept: list[Any] = []

        def stop(tree: Any) -> None:
            kept.append(tree)
            if len(kept) == 2:
                for fake in fakes:
                    fake.kill()

        with pytest.raises(EngineError, match="no server answers any more") as caught:
            asyncio.run(search_of(engine).grow_each(prompts(20), stop))
    assert all(fake.url in str(caught.value) for fake in fakes)
    assert 2 <= len(kept) < 20


def test_a_replica_whose_engine_is_dead_is_left_and_taken_back_once_it_is_healthy() -> None:
    with servers(2) as (sick, well):
        sick.script = lambda path, body, n: error(500, "EngineDeadError") if body else None
        sick.health = 503
        now = [0.0]
        engine = engine_of(sick, well, clock=lambda: now[0])
        for seed in range(6):
            ask(engine, [5, 2 + seed])
        assert len(well.requests) == 6
        assert len(sick.requests) == 1  # the first; then it was known to be down
        sick.script, sick.health, now[0] = None, 200, 100.0

        async def later() -> None:
            await engine.generate([5, 8], SAMPLING, 0, 4)
            async with asyncio.timeout(5):  # its health is asked in the background
                while not engine.replicas[0].up:
                    await asyncio.sleep(0.01)

        asyncio.run(later())
        assert all(replica.up for replica in engine.replicas)


def test_the_replica_of_a_tree_in_use_is_remembered_when_others_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibtpo.engines.server.TREES_REMEMBERED", 2)
    with servers(2) as (first, second):
        engine = engine_of(first, second)
        for prompt in ([5, 2], [5, 3], [5, 2, 4], [5, 6]):  # two trees, a branch of the first one, a third tree
            ask(engine, prompt)
        assert [r["prompt"] for r in first.requests] == [[5, 2], [5, 2, 4], [5, 6]]
        ask(engine, [5, 2, 7])  # a new tree would go to the second server, which serves fewer
    assert first.requests[-1]["prompt"] == [5, 2, 7]
    assert [r["prompt"] for r in second.requests] == [[5, 3]]


def test_a_replica_that_is_down_at_the_start_is_left_out_with_a_warning() -> None:
    with servers(2) as (first, second):
        first.kill()
        with pytest.warns(UserWarning, match="does not answer"):
            engine = engine_of(first, second)
        assert ask(engine).token_ids
        assert engine.replicas[0].up is False


# --- connecting ------------------------------------------------------------------------------------------------


def test_no_server_at_all_is_an_error_that_says_how_to_start_one() -> None:
    fake = FakeServer()
    fake.kill()
    with pytest.raises(EngineError, match=rf"no server answers \({fake.url}.*vllm serve"):
        engine_of(fake)


def test_replicas_of_different_models_are_refused() -> None:
    a, b = FakeServer(model="a"), FakeServer(model="b")
    with a, b, pytest.raises(EngineError, match=r"one model.*'a'.*'b'"):
        engine_of(a, b)


def test_replicas_of_different_kinds_are_refused() -> None:
    a, b = FakeServer(), FakeServer(owned_by="sglang")
    with a, b, pytest.raises(EngineError, match=rf"one kind, but they are: {a.url} vLLM, {b.url} SGLang"):
        engine_of(a, b)


@pytest.mark.parametrize("logprob", [-1e-5, 0.0])
def test_near_certain_tokens_do_not_make_a_server_look_processed(logprob: float) -> None:
    with FakeServer(script=lambda path, body, n: ok(completion([3], [logprob])) if body else None) as fake:
        if logprob:
            with pytest.warns(UserWarning, match=f"{fake.url} did not show which kind of log-probs"):
                assert engine_of(fake, logprobs=None).logprobs == "unknown"
        else:  # what is taken after the filter is 0 for whatever prompt
            assert engine_of(fake, logprobs=None).logprobs == "processed"
        assert len(fake.requests) == 3


def test_something_else_that_speaks_http_is_refused() -> None:
    for reply, pattern in (
        (ok({"hello": "world"}), "names no model; is it a vLLM or SGLang server"),
        (error(401, "no key"), "HTTP 401: no key; put the server's key"),
    ):
        fake = FakeServer(script=lambda path, body, n, reply=reply: reply)
        with fake, pytest.raises(EngineError, match=pattern):
            engine_of(fake)


@pytest.mark.parametrize(
    ("urls", "pattern"),
    [
        ([], "got none"),
        (["http://a:1", "http://a:1/v1/"], "different server URLs"),
        (["ftp://a"], "no server's URL"),
        (["http://"], "no server's URL"),
        (["http://a:port"], "no URL"),
    ],
)
def test_urls_that_cannot_be_right_are_refused(urls: list[str], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        connect(urls, vocab_size=VOCAB, eos_token_ids=[EOS])


def test_a_url_may_end_in_v1_or_leave_http_out() -> None:
    with FakeServer() as fake:
        for url in (fake.url + "/v1", fake.url + "/", fake.url.removeprefix("http://")):
            engine = connect([url], vocab_size=VOCAB, eos_token_ids=[EOS], logprobs="full")
            assert engine.replicas[0].url == fake.url


def test_tokens_follow_the_law_they_are_reported_with() -> None:
    with FakeServer() as fake:
        engine = connect([fake.url], vocab_size=VOCAB, eos_token_ids=[], logprobs="full")

        async def some(first: int) -> list[Any]:
            return [await engine.generate([5, 6], Sampling(1.0, 1.0, 0), s, 1) for s in range(first, first + 150)]

        async def many() -> list[Any]:
            runs = await asyncio.gather(*[some(first) for first in range(0, 600, 150)])
            return [c for run in runs for c in run]

        drawn = asyncio.run(many())
    counts = np.bincount([c.token_ids[0] for c in drawn], minlength=VOCAB)
    p = np.exp(log_softmax(logits(6)))
    assert ((counts - 600 * p) ** 2 / (600 * p)).sum() < 27.9  # chi-square, 9 degrees of freedom: 0.1 %
    assert json.dumps(fake.requests[0])  # plain numbers throughout


# --- the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Any) -> Any:
    file = tmp_path / "data.jsonl"
    file.write_text(
        "".join(json.dumps({"id": f"q{i}", "question": "abc"[: i + 1], "answer": "1"}) + "\n" for i in range(3))
    )
    return file


def command(tiny_model: Any, data: Any, *words: str) -> list[str]:
    return [*words, "--model", str(tiny_model), "--data", str(data), "--verifier", "math", "--quiet"]


def test_trees_and_answers_are_sampled_from_servers_by_the_command_line(
    tiny_model: Any, data: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from ibtpo.cli import main

    with servers(2) as fakes:
        urls = ",".join(f.url for f in fakes)
        words = command(
            tiny_model, data, "sample", "--engine", urls, "--tree", "2,3,1,1", "--max-completion-length", "8"
        )
        assert main([*words, "--output", str(tmp_path / "trees.jsonl")]) == 0
        requests = sum(len(f.requests) for f in fakes)
        assert requests == 3 * 4 + 2  # and two to find out about the log-probs
        words = command(
            tiny_model, data, "eval", "--engine", urls, "--k", "2", "--max-completion-length", "8", "--json"
        )
        capsys.readouterr()
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out)["k"] == 2
    trees = [json.loads(line) for line in (tmp_path / "trees.jsonl").read_text().splitlines()]
    assert [len(t["leaves"]) for t in trees] == [4, 4, 4]
    assert all("logprobs" not in t["meta"] for t in trees)


def test_trees_with_biased_logprobs_say_so(tiny_model: Any, data: Any, tmp_path: Any) -> None:
    from ibtpo.cli import main

    with FakeServer(logprobs="processed") as fake:
        words = command(
            tiny_model, data, "sample", "--engine", fake.url, "--tree", "2,1,1,1", "--max-completion-length", "4"
        )
        with pytest.warns(UserWarning, match="renormalised"):
            assert main([*words, "--output", str(tmp_path / "trees.jsonl")]) == 0
    tree = json.loads((tmp_path / "trees.jsonl").read_text().splitlines()[0])
    assert tree["meta"]["logprobs"] == "renormalised after top-p and top-k"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "vlm"], "unknown engine 'vlm'; did you mean 'vllm'?"),
        (["--engine", "ftp://a"], "is no server's URL"),
        (["--engine", "http://127.0.0.1:9"], "no server answers (http://127.0.0.1:9"),
        (["--engine", "http://127.0.0.1:9", "--device", "cpu"], "device 'cpu' is for the transformers engine"),
    ],
)
def test_engines_that_cannot_be_used_are_one_line_on_stderr(
    tiny_model: Any, data: Any, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    from ibtpo.cli import main

    assert main(command(tiny_model, data, "eval", *options)) == 2
    error_lines = capsys.readouterr().err.strip().splitlines()
    assert len(error_lines) == 1
    assert message in error_lines[0]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_the_extra(tiny_model: Any, data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from ibtpo.cli import main

    assert main(command(tiny_model, data, "eval", "--engine", "vllm")) == 2
    assert "pip install 'ibtpo[vllm]'" in capsys.readouterr().err
