"""check-data, env and recipes on the command line."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import ibtpo.storage.recipes as recipes
from helpers.places import DATA
from ibtpo.storage.env import collect_env


def test_check_data_accepts_good_answers_and_fails_on_bad_ones(call, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "strict.py").write_text(
        "def strict(completions, answer, **kwargs):\n"
        "    return [float(a != 'bad' and a in c) for c, a in zip(completions, answer)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, answers in [("good", ["1", "2", "3"]), ("mixed", ["1", "bad", "3"])]:
        rows = [{"id": f"{name}{i}", "question": "q", "answer": a} for i, a in enumerate(answers)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    options = ["--verifier", "strict:strict", "--verifier-workers", 1]
    code, out, err = call("check-data", tmp_path / "good.jsonl", *options, "--json")
    assert (code, err) == (0, "")
    assert {k: json.loads(out)[k] for k in ("n", "passed", "failing")} == {"n": 3, "passed": 3, "failing": []}
    code, out, err = call("check-data", tmp_path / "good.jsonl", tmp_path / "mixed.jsonl", *options)
    assert code == 1
    assert "good.jsonl (3 problems, verifier strict:strict): ok" in out
    assert "mixed.jsonl (3 problems, verifier strict:strict): FAILED" in out
    assert "mixed1: bad" in out
    assert err == "more than 0.5 % of the reference answers of a file failed\n"


def test_check_data_takes_the_verifier_that_goes_with_the_data(call) -> None:
    code, out, _ = call("check-data", "walk:test", "--limit", 20, "--json")
    report = json.loads(out)
    assert (code, report["verifier"], report["passed"]) == (0, "walk", 20)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data sets are not at {DATA}")
def test_check_data_passes_real_answers(call) -> None:
    code, out, _ = call("check-data", DATA / "gsm8k_test.jsonl", "--limit", 50, "--json")
    assert (code, json.loads(out)["passed"]) == (0, 50)


def test_check_data_names_the_line_of_a_malformed_file(call, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question": "q"\n')
    code, _, err = call("check-data", tmp_path / "bad.jsonl")
    assert code == 2
    assert "bad.jsonl, line 2" in err


def test_env_tells_versions_and_machine(call) -> None:
    code, out, _ = call("env", "--json")
    env = json.loads(out)
    assert code == 0
    assert list(env) == list(collect_env())
    for name in ("torch", "numpy", "transformers", "math-verify"):
        assert env["packages"][name] == metadata.version(name)
    assert env["packages"]["vllm"] is None or metadata.version("vllm")
    assert env["python"] == ".".join(map(str, sys.version_info[:3]))
    assert env["cpus"] >= 1
    commit = env["commit"]
    assert commit is None or len(commit.rstrip("+")) == 40
    code, out, _ = call("env")
    assert f"torch:        {metadata.version('torch')}\n" in out


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "small.yaml").write_text("\n# A small run.\n# More.\nmodel: nano\n")
    (folder / "large.yaml").write_text("model: big  # no comment line\n")
    monkeypatch.setattr(recipes, "FOLDER", folder)
    return folder


def test_recipes_are_listed_printed_and_copied(call, shipped: Path, tmp_path: Path) -> None:
    assert call("recipes") == (0, "large\nsmall  A small run.\n", "")
    assert call("recipes", "small")[1] == (shipped / "small.yaml").read_text()
    copy = tmp_path / "mine" / "run.yaml"
    assert call("recipes", "small.yaml", "--copy", copy)[0] == 0
    assert copy.read_text() == (shipped / "small.yaml").read_text()
    code, _, err = call("recipes", "large", "--copy", copy)
    assert (code, "exists already; give --overwrite" in err) == (2, True)
    assert call("recipes", "large", "--copy", copy, "--overwrite")[0] == 0
    assert copy.read_text() == (shipped / "large.yaml").read_text()
    assert call("recipes", "smal")[2] == "error: unknown recipe 'smal'; did you mean 'small'?\n"


def test_every_shipped_recipe_is_a_yaml_table_that_says_what_it_is() -> None:
    for path in recipes.FOLDER.glob("*.yaml"):
        assert recipes.about(path), path
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


@pytest.mark.parametrize(
    ("called", "name"),
    [("/opt/env/bin/ibtpo", "ibtpo"), ("/opt/src/ibtpo/__main__.py", "ibtpo"), ("train.py", "train.py")],
)
def test_the_command_is_kept_without_where_it_is_installed(
    called: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [called, "train", "--seed", "3"])
    assert collect_env()["command"] == [name, "train", "--seed", "3"]
