"""Metrics, completions and sample trees in real tracker files, read back with each tracker's own reader."""

import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from helpers.tiny_model import make_tiny_model
from helpers.view_pages import evil_tree
from ibtpo.credit import CreditOptions
from ibtpo.errors import DependencyError
from ibtpo.training.trackers import TRACKERS, check_installed, files_in, show_tree

pytest.importorskip("trl", reason="TRL is not installed")
REWARD = "def reward(completions, **columns):\n    return [float(c.count('a') > c.count('b')) for c in completions]\n"


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


INSTALLED = [name for name in TRACKERS if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps of `ibtpo train` that report to every tracker there is, trees of every step written."""
    folder = tmp_path_factory.mktemp("trackers")
    make_tiny_model(folder / "model")
    (folder / "more_a.py").write_text(REWARD)
    rows = [{"question": a + b, "answer": "-"} for a in "abc" for b in "def"]
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio")}
    env["PYTHONPATH"] = os.pathsep.join([str(folder), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "ibtpo", "train", "--output", "run", "--model", str(folder / "model"), "--quiet"]
    command += ["--data", "data.jsonl", "--verifier", "more_a:reward", "--max_steps", "2", "--prompts_per_step", "2"]
    command += ["--max_completion_length", "16", "--save_trees_every", "1", "--learning_rate", "0.01"]
    command += ["--log_completions", "--report_to", f"[{', '.join(INSTALLED)}]"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run", done


@pytest.fixture(scope="module")
def run(trained):
    return trained[0]


def test_a_quiet_run_prints_nothing_whatever_it_reports_to(trained):
    _, done = trained
    assert done.stdout in ("", "[INFO] Running in WANDB offline mode\n")  # transformers', when imported
    assert done.stderr == ""


def metrics(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if "loss" in row}


@needs("tensorboard")
def test_tensorboard_files_are_in_the_run_folder_and_hold_the_metrics_and_a_tree_a_step(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert not (run / "checkpoints" / "runs").exists()
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for name in ("ibtpo/eff_rate", "ibtpo/avg_rate", "ibtpo/ib_score"):
        read = {e.step: e.value for e in events.Scalars(f"train/{name}")}
        assert read == pytest.approx({step: row[name] for step, row in metrics(run).items()}, abs=1e-6)
    trees = events.Tensors("ibtpo/tree/text_summary")
    assert [t.step for t in trees] == [1, 2]
    text = trees[0].tensor_proto.string_val[0].decode()
    assert "12 trajectories" in text
    assert all(line.startswith("    ") for line in text.split("\n"))


@needs("trackio")
def test_trackio_holds_the_metrics_the_completions_and_a_tree_a_step(run):
    (database,) = (run.parent / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(r[0]) for r in connection.execute("select metrics from metrics where run_name = 'run'")]
    logged = [row["train/ibtpo/ib_score"] for row in rows if "train/ibtpo/ib_score" in row]
    assert dict(enumerate(logged, 1)) == pytest.approx(
        {step: row["ibtpo/ib_score"] for step, row in metrics(run).items()}
    )
    trees = [row for row in rows if "ibtpo/tree" in row]
    assert [row["train/global_step"] for row in trees] == [1, 2]
    assert "12 trajectories" in trees[0]["ibtpo/tree"]["_value"]
    tables = [row["completions"]["_value"] for row in rows if "completions" in row]
    assert len(tables[0]) == 24
    assert {"prompt", "completion", "advantage"} <= set(tables[0][0])


@needs("wandb")
def test_an_offline_wandb_run_is_in_the_run_folder_with_metrics_completions_and_trees(run):
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for name in (b"train/ibtpo/eff_rate", b"train/ibtpo/cov_eta", b"ibtpo/tree", b"completions"):
        assert name in content
    pages = sorted(file.parent.glob("files/media/html/ibtpo/tree_*.html"))
    assert len(pages) == 2
    assert "12 trajectories" in pages[0].read_text()
    assert list(file.parent.glob("files/media/table/completions_*.json"))


def test_no_text_of_a_tree_breaks_out_of_what_trackers_show_it_in(monkeypatch):
    shown = {}
    writer = SimpleNamespace(add_text=lambda key, text, step: shown.update(tensorboard=text))
    trackio = SimpleNamespace(
        Markdown=str,
        context_vars=SimpleNamespace(current_run=SimpleNamespace(get=lambda: True)),
        log=lambda values: shown.update(trackio=values["ibtpo/tree"]),
    )
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    trainer = SimpleNamespace(
        args=SimpleNamespace(report_to=["tensorboard", "trackio"], credit_options=CreditOptions),
        callback_handler=SimpleNamespace(callbacks=[SimpleNamespace(tb_writer=writer)]),
    )
    tree = evil_tree(10)
    tree.nodes[0].step.text += "\n~~~~~~\n# a heading\r\x1b[31m"
    show_tree(trainer, tree, 1)
    first, *inside, last = shown["trackio"].split("\n")
    assert first == last
    assert set(first) == {"~"}
    assert not any(line.strip().startswith(first) for line in inside)
    assert all(line.startswith("    ") for line in shown["tensorboard"].split("\n"))
    for text in shown.values():
        assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)


def test_a_missing_tracker_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_installed(["none"])
    with pytest.raises(DependencyError, match="report_to trackio needs the package 'trackio': pip install trackio"):
        check_installed(["trackio"])


def test_folders_are_set_for_the_named_trackers_only_and_no_setting_of_the_user_is_overruled(tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    with files_in(tmp_path, ["tensorboard", "wandb"]):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
        assert os.environ["WANDB_DIR"] == "elsewhere"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    with files_in(tmp_path, []):
        assert "TENSORBOARD_LOGGING_DIR" not in os.environ
