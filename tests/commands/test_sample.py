"""`ibtpo sample` with a tiny random model: its trees, and going on after a kill; engines of all verbs that sample."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ibtpo.commands.sample as sample
from helpers import own_engine
from ibtpo.metrics import summarise, tree_record
from ibtpo.tree import read_trees


def ibtpo(*words: object, **options) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "ibtpo", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def content(path: Path) -> list[dict]:
    """Trees without their floats, whose last bits may depend on the batch."""
    return [
        {
            "id": t.id,
            "ids": [t.completion_ids(i) for i in range(len(t.leaves))],
            "rewards": [leaf.reward for leaf in t.leaves],
        }
        for t in read_trees(path)
    ]


def test_sample_stores_whole_trees_in_input_order_and_sums_them_up(call, words, tmp_path: Path) -> None:
    out_file = tmp_path / "trees.jsonl"
    code, out, err = call("sample", *words, "--limit", 5, "--output", out_file, "--tree", "3,4,1,2", "--json")
    assert code == 0
    trees = list(read_trees(out_file))
    assert [t.id for t in trees] == [f"q{i}" for i in range(5)]
    assert [len(t.leaves) for t in trees] == [3 + 3 * 2] * 5
    for tree in trees:
        for i, leaf in enumerate(tree.leaves):
            text = tree.completion_text(i)
            assert leaf.reward == float(text.count("a") > text.count("b"))
            assert len(tree.completion_ids(i)) <= 24
        assert tree.meta["search"]["branching"] == "ib"
    expected = summarise([tree_record(t) for t in trees])
    got = json.loads(out)
    assert {k: got[k] for k in expected} == pytest.approx(expected, nan_ok=True)
    assert err.splitlines()[-1].startswith("5/5 trees, reward ")
    assert [p.name for p in tmp_path.iterdir()] == ["trees.jsonl"]


def test_sample_prints_a_table_and_nothing_else_when_quiet(call, words, tmp_path: Path) -> None:
    code, out, err = call("sample", *words, "--limit", 2, "--output", tmp_path / "t.jsonl.gz", "--quiet")
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (rows["trees"], rows["trajectories"]) == ("2", "24")
    assert len(list(read_trees(tmp_path / "t.jsonl.gz"))) == 2


@pytest.mark.slow
def test_sample_says_when_trees_cannot_branch(call, words, tmp_path: Path) -> None:
    options = ("sample", *words, "--limit", 2, "--output", tmp_path / "t.jsonl", "--splitter", "tokens:1000")
    code, _, err = call(*options)
    assert code == 0
    assert "warning: 24 of 24 answers are a single step, so their trees branch at the root only" in err
    assert "splitter='tokens:1000' finds no place inside them" in err
    code, _, err = call(*options, "--overwrite", "--branching", "independent")
    assert (code, "single step" in err) == (0, False)


def test_a_killed_sample_loses_no_finished_tree_and_resumes_to_the_same_file(call, words, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    more = ["--tree", "3,4,1,1", "--max-in-flight", 1, "--quiet"]
    assert call("sample", *words, *more, "--output", whole)[0] == 0
    command = [sys.executable, "-m", "ibtpo", "sample", *map(str, [*words, *more]), "--output", str(killed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    part = tmp_path / "killed.jsonl.partial"
    deadline = time.monotonic() + 100
    while (not part.exists() or part.read_bytes().count(b"\n") < 2) and time.monotonic() < deadline:
        assert process.poll() is None, "it finished before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    finished = part.read_bytes()
    assert 2 <= finished.count(b"\n") < 12
    with part.open("ab") as f:
        f.write(b'{"id": "torn')  # as a kill in the middle of a write leaves it
    code, _, err = call("sample", *words, *more, "--output", killed)
    assert code == 2
    assert "killed.jsonl.partial exists already; give --resume" in err
    assert call("sample", *words, *more, "--output", killed, "--resume")[0] == 0
    assert content(killed) == content(whole)
    assert set(finished.splitlines()) <= set(killed.read_bytes().splitlines())
    assert not part.exists()


def test_a_full_disk_loses_no_finished_tree_and_the_message_says_how_to_go_on(call, words, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    whole, file = tmp_path / "whole.jsonl", tmp_path / "disk" / "t.jsonl"
    file.parent.mkdir()
    link = tmp_path / "t.jsonl"
    link.symlink_to(file)
    more = ["--limit", 4, "--tree", "3,4,1,1", "--max-in-flight", 1, "--quiet"]
    assert call("sample", *words, *more, "--output", whole)[0] == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * whole.stat().st_size // 3, before[1]))
    try:
        code, _, err = call("sample", *words, *more, "--output", link)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    part = tmp_path / "disk" / "t.jsonl.partial"
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {part}: File too large; what is finished is kept, go on with: ibtpo sample ")
    assert 1 <= part.read_bytes().count(b"\n") < 4
    assert call("sample", *words, *more, "--output", link, "--resume")[0] == 0
    assert content(file) == content(whole)
    assert link.is_symlink()
    assert not part.exists()


def test_the_template_s_variables_reach_the_prompts(call, words, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tmp_path / "chat"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if letter is defined %}{{ letter }}{% else %}j{% endif %}"
    tokenizer.save_pretrained(model)
    out, chosen = tmp_path / "t.jsonl", ["--model", model, *words[2:], "--limit", 2, "--quiet"]
    for given, letter in (([], "j"), (["--chat-template-kwargs", "{letter: i}"], "i")):
        assert call("sample", *chosen, *given, "--tree", "2,1,1,1", "--output", out, "--overwrite")[0] == 0
        assert [tree.prompt for tree in read_trees(out)] == ["a" + letter, "b" + letter]
    code, result, _ = call("eval", *chosen, *given, "--k", 1, "--json")
    assert (code, json.loads(result)["chat_template_kwargs"]) == (0, {"letter": "i"})
    code, _, err = call("sample", *chosen, "--chat-template-kwargs", "letter", "--output", out, "--overwrite")
    assert code == 2
    assert "'letter' is no mapping such as {enable_thinking: false}" in err


def test_resume_grows_only_what_is_missing(call, words, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    call("sample", *words, "--limit", 3, "--output", few, "--quiet")
    before = few.read_bytes()
    code, out, _ = call("sample", *words, "--limit", 5, "--output", few, "--quiet", "--resume", "--json")
    assert (code, json.loads(out)["trees"]) == (0, 5)
    assert few.read_bytes().startswith(before)
    assert len(few.read_bytes().splitlines()) == 5


def test_resume_refuses_to_mix_trees_of_different_options(call, words, tmp_path: Path) -> None:
    trees = tmp_path / "t.jsonl"
    call("sample", *words, "--limit", 2, "--output", trees, "--quiet")
    before = trees.read_bytes()
    resume = ["sample", *words, "--output", trees, "--quiet", "--resume"]
    for change, message in [
        (["--seed", 1], "--resume: seed is 1, but 0 in"),
        (["--temperature", 0.5], "--resume: sampling.temperature is 0.5, but 1.0 in"),
        (["--tree", "4,9,1,2"], "--resume: budget.b is 2, but 1 in"),
        (["--instruction", "c"], "--resume: the prompt of 'q0' is not the one in"),
        (["--limit", 1], "--resume: "),
    ]:
        code, _, err = call(*resume, *change)
        assert code == 2
        assert err.startswith(f"error: {message}")
    assert trees.read_bytes() == before
    assert call(*resume, "--limit", 2, "--max-in-flight", 3)[0] == 0  # changes no tree


def test_sample_starts_over_only_when_told_so(call, words, tmp_path: Path) -> None:
    trees = tmp_path / "t.jsonl"
    trees.write_text("precious\n")
    code, _, err = call("sample", *words, "--limit", 1, "--output", trees)
    assert (code, trees.read_text()) == (2, "precious\n")
    assert "exists already; give --resume to go on with it or --overwrite to start again" in err
    assert call("sample", *words, "--limit", 1, "--output", trees, "--overwrite", "--resume")[0] == 2
    assert call("sample", *words, "--limit", 1, "--output", trees, "--overwrite", "--quiet")[0] == 0
    assert [t["id"] for t in content(trees)] == ["q0"]


def test_a_prompt_longer_than_the_context_is_named(call, words, tmp_path: Path) -> None:
    rows = [{"id": "fine", "question": "a"}, {"id": "endless", "question": "b" * 128}]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, _, err = call("sample", *words, "--data", tmp_path / "long.jsonl", "--output", tmp_path / "t.jsonl")
    assert code == 2
    assert "'endless'" in err
    assert "128 tokens" in err
    assert not (tmp_path / "t.jsonl").exists()


def test_an_engine_failure_keeps_the_finished_trees_and_says_so(call, words, tmp_path: Path, monkeypatch) -> None:
    from ibtpo.engines.transformers import TransformersEngine
    from ibtpo.errors import EngineError

    real, done = TransformersEngine.generate, []

    async def failing(self, *arguments):
        done.append(1)
        if len(done) > 2 * 12:
            raise EngineError("the power went out")
        return await real(self, *arguments)

    monkeypatch.setattr(TransformersEngine, "generate", failing)
    trees = tmp_path / "t.jsonl"
    code, _, err = call("sample", *words, "--output", trees, "--max-in-flight", 1, "--quiet")
    assert code == 2
    assert "the power went out; 2 of 12 trees are kept, go on with --resume" in err
    assert len((tmp_path / "t.jsonl.partial").read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    ("verb", "more", "answers"),
    [
        ("sample", ["--output", "own.jsonl", "--tree", "2,3,1,1"], 2 * 4),
        ("eval", ["--k", 3], 2 * 3),
        ("diagnose", ["--tree", "2,3,1,1"], 2 * 4),
        ("compare branching", ["--output", "own", "--arms", "random", "--tree", "2,3,1,1", "--pool", 12], 2 * (12 + 4)),
    ],
)
def test_every_verb_that_samples_takes_an_engine_by_dotted_path(
    call, words, tmp_path: Path, monkeypatch, verb: str, more: list[object], answers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    own_engine.MADE.clear()
    own = ["--engine", "helpers.own_engine:make", "--max-in-flight", 5]
    code, out, err = call(*verb.split(), *words, "--limit", 2, *own, *more, "--quiet", "--json")
    assert (code, err) == (0, "")
    (engine,) = own_engine.MADE
    assert engine.max_in_flight == 5
    assert len(engine.answers) == answers
    if verb == "sample":
        trees = list(read_trees(tmp_path / "own.jsonl"))
        assert {tuple(tree.completion_ids(i)) for tree in trees for i in (0, 1)} <= set(engine.answers)
        assert json.loads(out)["generated_tokens"] == sum(map(len, engine.answers))
    if verb == "eval":
        assert json.loads(out)["tokens"] == sum(map(len, engine.answers))
        assert json.loads(out)["avg"] == pytest.approx(sum(a.count(2) > a.count(3) for a in engine.answers) / answers)


def test_an_engine_that_a_verb_cannot_use_is_one_line(call, words) -> None:
    for verb, engine, message in (
        ("eval", "helpers.own_engine:fail", "engine 'helpers.own_engine:fail' cannot be made: OSError: no such device"),
        ("eval", "vlm", "unknown engine 'vlm'; did you mean 'vllm'?"),
        ("diagnose", "vllm", "checkpoints are measured in this process, one after the other: --engine must be transf"),
        ("diagnose", "http://host:8000", "checkpoints are measured in this process, one after the other: --engine"),
    ):
        code, out, err = call(verb, *words, "--engine", engine)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1


@pytest.mark.skipif(
    not (Path(sample.__file__).parents[1] / "assets" / "nano" / "config.json").is_file(),
    reason="the embedded model is not in this checkout",
)
@pytest.mark.slow
def test_the_embedded_model_samples_and_is_scored_from_the_shell(tmp_path: Path) -> None:
    trees = tmp_path / "trees.jsonl"
    made = ibtpo("sample", "--model", "nano", "--data", "walk:test", "--limit", 3, "--output", trees, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["trajectories"] == 36
    scored = ibtpo("score", trees, "--json")
    assert (scored.returncode, len(scored.stdout.splitlines())) == (0, 3)
    for tree, line in zip(read_trees(trees), scored.stdout.splitlines(), strict=True):
        rewards = [leaf.reward for leaf in tree.leaves]
        assert json.loads(line)["avg_reward"] == pytest.approx(sum(rewards) / 12)
