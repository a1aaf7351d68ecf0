"""The command line: what programs and people rely on."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
import types
from importlib import metadata
from pathlib import Path

import pytest

import ibtpo.commands.sample as sample
from helpers import own_engine
from helpers.places import GOLDEN
from ibtpo import cli
from ibtpo.metrics import summarise, tree_record
from ibtpo.storage.yaml_file import yaml_value
from ibtpo.tree import read_trees, write_trees


def ibtpo(*words: object, **options) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "ibtpo", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# --- help, versions, errors ----------------------------------------------------------------------------------------


def test_no_help_text_loads_a_heavy_module() -> None:
    code = f"""if True:
        import contextlib, io, sys
        from ibtpo.cli import main
        for verb in [[], ["compare", "branching"], ["compare", "training"], *[[v] for v in {list(cli.VERBS)}]]:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                assert main([*verb, "--help"]) == 0, verb
            assert "usage: ibtpo" in out.getvalue(), verb
        print([m for m in ("numpy", "torch", "transformers", "trl", "rich", "yaml", "asyncio") if m in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert eval(done.stdout) in ([], ["asyncio"])


def test_the_overview_names_every_verb(call) -> None:
    code, out, _ = call()
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


def test_the_version_is_printed(call) -> None:
    assert call("--version") == (0, f"ibtpo {metadata.version('ibtpo')}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["checkdata"], "unknown command 'checkdata'; did you mean 'check-data'?"),
        (["--verson"], "unknown option '--verson'; did you mean '--version'?"),
        (["sample", "--modle", "nano"], "unknown option '--modle'; did you mean '--model'?"),
        (
            ["sample", "--max_completion_lenght=3"],
            "unknown option '--max-completion-lenght'; did you mean '--max-completion-length'?",
        ),
        (["score", "x.jsonl", "--ib-bta", "5"], "unknown option '--ib-bta'; did you mean '--ib-beta'?"),
        (["eval", "--limit", "3", "-o", "x"], "unknown option '-o'; known: "),
        (["score"], "the following arguments are required: TREES; see ibtpo score --help"),
        (["score", "x.jsonl", "--ib-beta", "five"], "argument --ib-beta: invalid float value: 'five'"),
        (["score", "x.jsonl", "y.jsonl"], "unrecognized arguments: y.jsonl"),
        (["score", "x.jsonl", "--ib-beta", "0"], "ib_beta must be > 0, got 0.0"),
        (["score", "x.jsonl", "--confidence", "geomeen"], "unknown confidence 'geomeen'; did you mean 'geomean'?"),
        (["score", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["recipes", "--copy", "x.yaml"], "--copy needs the NAME of a recipe"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(call, words: list[str], message: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_options_may_be_written_with_underscores(call) -> None:
    with_dash = call("score", GOLDEN / "three_leaf.jsonl", "--json", "--ratio-prior", "1")
    assert with_dash[0] == 0
    assert call("score", GOLDEN / "three_leaf.jsonl", "--json", "--ratio_prior=1") == with_dash


def test_score_prints_the_advantage_that_is_asked_for(call) -> None:
    def of(*words: str) -> list[float | None]:
        code, out, _ = call("score", GOLDEN / "three_leaf.jsonl", "--json", *words)
        assert code == 0
        return [node["advantage"] for node in json.loads(out)["nodes"]]

    assert of("--advantage", "treepo")[1:] == pytest.approx([1 / 12, 7 / 12, -1 / 3, -5 / 12])
    assert of() == of("--advantage", "ibtpo") != of("--advantage", "treepo")
    assert call("score", GOLDEN / "three_leaf.jsonl", "--advantage", "tree_po") == (
        2, "", "error: unknown advantage 'tree_po'; did you mean 'treepo'?\n"
    )  # fmt: skip


MYTASK = """
def advantage(tree, options):
    return [[leaf.reward] * len(tree.path(leaf.node)) for leaf in tree.leaves]

def reward(completions, answer, **columns):
    return [1.0] * len(completions)
"""
INSTALLED = "import sys; sys.argv[0] = 'ibtpo'; from ibtpo.cli import main; sys.exit(main())"


@pytest.mark.parametrize("start", ["the script", "its code"])
def test_the_installed_command_finds_modules_in_the_current_folder(start: str, tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(MYTASK)
    (tmp_path / "d.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    script = Path(sys.executable).with_name("ibtpo")
    if start == "the script" and not script.is_file():
        pytest.skip("ibtpo is not installed as a command here")
    # -P: neither the folder of a script nor the current one comes before the path that is given.
    command = [sys.executable, "-P", *([str(script)] if start == "the script" else ["-c", INSTALLED])]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "PYTHONSAFEPATH": "1"}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        words = tuple(map(str, words))
        return subprocess.run([*command, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    done = run("score", GOLDEN / "three_leaf.jsonl", "--json", "--advantage", "mytask:advantage")
    assert done.returncode == 0, done.stderr
    assert [node["advantage"] for node in json.loads(done.stdout)["nodes"]] == [None, 0.5, 1.0, 0.0, 0.0]
    for name in ("mytask:reward", "mytask.reward"):  # in the verifier's child processes
        done = run("check-data", "d.jsonl", "--verifier", name, "--json")
        assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, 1), done.stderr + done.stdout


def test_a_missing_package_is_one_line_with_its_install_line(call, monkeypatch) -> None:
    def run(args):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("ibtpo.commands.env.run", run)
    assert call("env") == (2, "", "error: this needs the package 'torch': pip install 'ibtpo[torch]'\n")


def test_a_bug_is_not_hidden_as_a_user_error(call, monkeypatch) -> None:
    def run(args):
        raise ModuleNotFoundError("No module named 'ibtpo.scoer'", name="ibtpo.scoer")

    monkeypatch.setattr("ibtpo.commands.env.run", run)
    with pytest.raises(ModuleNotFoundError):
        call("env")


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(call, monkeypatch) -> None:
    def run(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ibtpo.commands.sample.run", run)
    words = ["sample", "--model", "nano", "--data", "my data.jsonl", "--output", "t.jsonl", "--overwrite"]
    code, _, err = call(*words)
    assert code == 130
    go_on = "ibtpo sample --model nano --data 'my data.jsonl' --output t.jsonl --resume\n"
    assert err == f"\ninterrupted; what is finished is kept, go on with: {go_on}"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    trees = list(read_trees(GOLDEN / "three_leaf.jsonl")) * 3000
    write_trees(tmp_path / "many.jsonl", trees)
    command = f"{sys.executable} -m ibtpo score {tmp_path / 'many.jsonl'} --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert json.loads(done.stdout)["id"] == "three_leaf"


# --- train ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch):
    """What `ibtpo.commands.train.run` is called with."""
    calls = []
    fake = types.ModuleType("ibtpo.commands.train")
    fake.run = lambda recipe, overrides, **options: calls.append((recipe, overrides, options)) or 0
    monkeypatch.setitem(sys.modules, "ibtpo.commands.train", fake)
    return calls


PLAIN = {"output": None, "resume": None, "overwrite": False, "dry_run": False, "quiet": False, "as_json": False}


@pytest.mark.parametrize(
    ("words", "recipe", "overrides", "options"),
    [
        ([], None, {}, {}),
        (["nano"], "nano", {}, {}),
        (["--method", "grpo", "--learning-rate=1e-6"], None, {"method": "grpo", "learning_rate": 1e-6}, {}),
        (["r.yaml", "--use_peft", "--seed", "3"], "r.yaml", {"use_peft": True, "seed": 3}, {}),
        (["--dry-run", "r.yaml", "--json"], "r.yaml", {}, {"dry_run": True, "as_json": True}),
        (["--output", "007", "--overwrite", "--quiet"], None, {}, {"output": "007", "overwrite": True, "quiet": True}),
        (["--resume"], None, {}, {"resume": True}),
        (["--resume", "runs/1"], None, {}, {"resume": "runs/1"}),
        (["--seed", "1", "--seed", "2"], None, {"seed": 2}, {}),
        (["--ref", "-1"], None, {"ref": -1}, {}),
    ],
)
def test_train_hands_over_what_was_typed(call, trained, words, recipe, overrides, options) -> None:
    assert call("train", *words) == (0, "", "")
    assert trained == [(recipe, overrides, {**PLAIN, **options})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.yaml", "b.yaml"], "'b.yaml' is one word too many: the recipe is 'a.yaml'"),
        (["-q"], "what is '-q'? Options are written --KEY VALUE"),
        (["--quiet=yes"], "--quiet takes no value, got 'yes'"),
        (["--output"], "--output needs a folder"),
    ],
)
def test_train_refuses_what_it_cannot_place(call, trained, words, message) -> None:
    code, _, err = call("train", *words)
    assert code == 2
    assert err.startswith(f"error: {message}")
    assert trained == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-6", 1e-6),
        ("-2E5", -2e5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("none", "none"),
        ("[1, 0.2]", [1, 0.2]),
        ("{a: 1}", {"a": 1}),
        ("4,9,1,1", "4,9,1,1"),
        ("tokens:512", "tokens:512"),
        ("delimiter: ", "delimiter: "),
        ("12:30", "12:30"),
        ("1:30.5", "1:30.5"),
        ("017", "017"),
        ("-017", "-017"),
        ("018", "018"),
        ("0", 0),
        ("007.5", 7.5),
        ("0x1F", 31),
        ("1_000", 1000),
        ("yes", True),
        ("off", False),
        ("'no'", "no"),
        ("2024-01-01", "2024-01-01"),
        ("answer #1", "answer #1"),
        ("# note", "# note"),
        ("Say: it", "Say: it"),
        ("*bold*", "*bold*"),
        ("infinity", "infinity"),
        ("'3'", "3"),
        ("", None),
    ],
)
def test_values_are_read_as_yaml_and_text_is_left_alone(text: str, value: object) -> None:
    got = yaml_value(text)
    assert got == value
    assert type(got) is type(value)


# --- score ---------------------------------------------------------------------------------------------------------


def assert_same(got: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-9)
    else:
        assert got == expected
        assert type(got) is type(expected)


@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("*.jsonl")))
def test_score_prints_the_hand_computed_numbers(call, name: str) -> None:
    code, out, err = call("score", GOLDEN / f"{name}.jsonl", "--json")
    assert (code, err) == (0, "")
    assert_same(json.loads(out), json.loads((GOLDEN / f"{name}.json").read_text()))


def test_score_heeds_its_options(call) -> None:
    for case in json.loads((GOLDEN / "options.json").read_text()):
        words = [word for key, value in case["options"].items() for word in (f"--{key}", value)]
        code, out, _ = call("score", GOLDEN / f"{case['tree']}.jsonl", "--json", *words)
        assert code == 0
        assert_same(json.loads(out), case["expected"])


def test_score_reads_gzip_and_stdin_alike(call, tmp_path: Path, monkeypatch) -> None:
    source = GOLDEN / "merged.jsonl"
    (tmp_path / "trees.jsonl.gz").write_bytes(gzip.compress(source.read_bytes()))
    expected = call("score", source, "--json")
    assert call("score", tmp_path / "trees.jsonl.gz", "--json") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert call("score", "-", "--json") == expected


def test_score_shows_escapes_in_ids_and_steps_as_signs(call, tmp_path: Path) -> None:
    tree = next(iter(read_trees(GOLDEN / "inner_leaf.jsonl")))
    tree.id = "a\x1b]0;title\x07\u202e"
    tree.nodes[1].step.text = "\x9b31m\u202e"
    write_trees(tmp_path / "t.jsonl", [tree])
    code, out, _ = call("score", tmp_path / "t.jsonl")
    assert code == 0
    assert out.startswith("a[U+001B]]0;title[U+0007][U+202E]: 5 trajectories")
    assert out.splitlines()[3].endswith("[U+009B]31m[U+202E]")


def test_errors_show_what_a_file_holds_without_sending_it_to_the_terminal(call, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"\x1b]0;title\x07\u202e": 1, "naïve": 2}) + "\n")
    code, _, err = call("view", tmp_path / "t.jsonl")
    assert code == 2
    assert r"found \x1b]0;title\x07\u202e, naïve" in err


def test_score_prints_a_table_with_steps_under_the_ones_they_follow(call) -> None:
    code, out, _ = call("score", GOLDEN / "inner_leaf.jsonl")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == (
        "inner_leaf: 5 trajectories, avg_reward 0.6667, effective yes, ib_score 0.3750, cov_eta -0.0469"
    )
    assert [line.split()[0] for line in lines[2:8]] == ["0", "1", "4", "5", "2", "3"]
    numbers = ["0.5000", "-0.4500", "0.5000", "1.2000", "-0.2886", "-0.2250", "-0.3111"]
    assert lines[3].split() == ["1", "1", *numbers, r"10\n\n"]
    assert lines[5].split()[2:9] == ["-", "-", "0.1250", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("{", ":1: "),
        ("[]", ":1: a tree must be a JSON object, got list"),
        ('{"id": "a"}', ":1: tree has no 'prompt_ids'"),
        ('{"id": "a", "prompt_ids": [1], "nodes": [], "leaves": [{"node": 3}]}', ":1: leaves[0].node must be"),
    ],
)
def test_a_malformed_tree_file_is_named_with_its_line(call, tmp_path: Path, monkeypatch, content, message) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    code, out, err = call("score", file, "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {file}")
    assert message in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    code, _, err = call("score", "-")
    assert code == 2
    assert err.startswith("error: <stdin>:")


# --- sample and eval, with a tiny random model ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory):
    """A folder with questions in letters and a verifier for them."""
    folder = tmp_path_factory.mktemp("letters")
    rows = [{"id": f"q{i}", "question": "abcdefghij"[i % 10] * (1 + i // 10)} for i in range(12)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "letter_reward.py").write_text(
        "def more_a(completions, **kwargs):\n    return [float(c.count('a') > c.count('b')) for c in completions]\n"
    )
    return folder


@pytest.fixture
def words(letters: Path, tiny_model: Path, monkeypatch) -> list[object]:
    """The options that sample and eval share here."""
    monkeypatch.syspath_prepend(str(letters))
    verifier = ["--verifier", "letter_reward:more_a", "--verifier-workers", 1]
    lengths = ["--temperature", 1, "--top-p", 1, "--top-k", 0, "--max-completion-length", 24]
    return ["--model", tiny_model, "--data", letters / "questions.jsonl", "--device", "cpu", *verifier, *lengths]


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


def test_eval_prints_and_stores_what_its_answers_say(call, words, tmp_path: Path) -> None:
    file = tmp_path / "results" / "eval.json"
    code, out, err = call("eval", *words, "--k", 6, "--output", file, "--json")
    assert code == 0
    record = json.loads(file.read_text())
    assert json.loads(out) == record
    stored = [json.loads(line) for line in (file.parent / "eval.answers.jsonl").read_text().splitlines()]
    assert [(a["id"], a["draw"]) for a in stored] == [(f"q{i}", j) for i in range(12) for j in range(6)]
    for a in stored:
        assert a["grade"] == float(a["completion"].count("a") > a["completion"].count("b"))
    by_problem = [[a["grade"] for a in stored[i : i + 6]] for i in range(0, 72, 6)]
    assert record["avg"] == pytest.approx(sum(map(sum, by_problem)) / 72)
    assert record["pass"] == pytest.approx(sum(max(grades) for grades in by_problem) / 12)
    assert list(record)[:4] == ["avg", "pass", "k", "n"]
    assert (record["k"], record["n"], record["verifier_errors"]) == (6, 12, 0)
    assert record["avg_ci"][0] < record["avg"] < record["avg_ci"][1]
    assert record["tokens"] == sum(a["tokens"] for a in stored)
    assert err.splitlines()[-1].startswith("12/12 problems, reward ")
    code, _, err = call("eval", *words, "--output", file)
    assert (code, "exists already; give --overwrite" in err) == (2, True)
    assert json.loads(file.read_text()) == record


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


def test_eval_prints_a_table_with_intervals(call, words) -> None:
    code, out, err = call("eval", *words, "--k", 3, "--limit", 4, "--quiet")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[:4]] == ["avg@3", "pass@1", "pass@2", "pass@3"]
    assert lines[0][1] == lines[1][1]
    assert lines[0][3].startswith("[")
    assert lines[4] == ["problems", "4"]


# --- the embedded model --------------------------------------------------------------------------------------------


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
