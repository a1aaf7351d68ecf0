"""The command line: what programs and people rely on."""

import json
import os
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest

from helpers.places import GOLDEN
from ibtpo import cli
from ibtpo.storage.yaml_file import yaml_value
from ibtpo.tree import read_trees, write_trees

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


PLAIN = {"output": None, "resume": None, "accelerate": None, "gpu_memory_gb": None} | dict.fromkeys(
    ("overwrite", "dry_run", "quiet", "as_json"), False
)


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


@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("{} recipes nano-walk | true; exit ${{PIPESTATUS[0]}}", 141, ""),
        ("{} score many.jsonl --json | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}", 141, ""),
        ("{} score gone.jsonl 2>&1 | true; exit ${{PIPESTATUS[0]}}", 141, ""),
        ("{} recipes nano-walk >&-", 0, ""),
        ("{} recipes nano-walk > /dev/full", 2, "error: standard output: No space left on device\n"),
        ("{} recipes nano-walk --copy /dev/full/a.yaml", 2, "/dev/full/a.yaml: its folder cannot be made"),
    ],
)
def test_an_output_that_takes_nothing_ends_a_command_quietly(tmp_path: Path, line: str, code: int, err: str) -> None:
    write_trees(tmp_path / "many.jsonl", list(read_trees(GOLDEN / "three_leaf.jsonl")) * 500)
    command = line.format(f"{sys.executable} -m ibtpo")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == code
    assert err in done.stderr
    assert done.stderr.count("\n") == bool(err)
