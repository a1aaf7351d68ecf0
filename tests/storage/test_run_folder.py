"""The run folder: what may be written over, and how a finished run that is made an unfinished one keeps its result."""

import json
import os
from pathlib import Path

import pytest
import yaml

from ibtpo.errors import CheckpointError, ConfigError
from ibtpo.storage.run_folder import RunFolder


def finished(path: Path) -> RunFolder:
    folder = RunFolder(path / "run")
    folder.create({"max_steps": 8}, {})
    for step in (0, 4, 8):
        folder.add_evals(step, {"step": step, "avg": step / 10})
    folder.write_eval("before", {"avg": 0.0})
    folder.write_eval("after", {"avg": 0.8})
    return folder


def test_a_prolonged_run_is_unfinished_and_no_later_start_drops_its_result(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    folder.reopen({"max_steps": 12})
    assert folder.read_eval() == {"before": {"avg": 0.0}}
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == {"max_steps": 12}
    folder.add_evals(3)  # goes on from a checkpoint at step 2
    assert [(row["step"], row.get("kept")) for row in folder.read_evals()] == [(0, None), (8, True)]
    folder.add_evals(4, {"step": 4, "avg": 0.4})
    folder.add_evals(12, {"step": 12, "avg": 0.9})
    assert [row["step"] for row in folder.read_evals()] == [0, 4, 8, 12]


def test_a_result_of_the_same_step_takes_the_place_of_the_kept_one(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    folder.reopen({"max_steps": 8})
    folder.add_evals(8, {"step": 8, "avg": 0.7})
    assert [row["avg"] for row in folder.read_evals()] == [0.0, 0.4, 0.7]


def test_an_unfinished_run_is_only_given_its_settings(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder.path / "eval.json").write_text(json.dumps({"before": {"avg": 0.0}}))
    rows = folder.read_evals()
    folder.reopen({"max_steps": 12})
    assert folder.read_evals() == rows


def test_a_folder_with_nothing_but_empty_checkpoints_is_free_and_one_with_a_checkpoint_is_not(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    folder.create({"max_steps": 8}, {})
    assert sorted(p.name for p in folder.path.iterdir()) == ["config.yaml", "env.json"]
    other = RunFolder(tmp_path / "other")
    (other.checkpoints / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--resume \S+other, start anew .* \(in Python resume=True, overwrite=True"):
        other.create({}, {})


@pytest.mark.parametrize("kept", ["run", "checkpoints"])
def test_a_symbolic_link_stays_when_a_run_starts_again(tmp_path: Path, kept: str) -> None:
    folder = RunFolder(tmp_path / "run")
    disk = tmp_path / "disk"
    if kept == "run":
        folder.path.symlink_to(disk)  # which need not exist
    else:
        disk.mkdir()
        folder.path.mkdir()
        folder.checkpoints.symlink_to(disk)
    folder.create({"max_steps": 8}, {})
    (folder.path / "metrics.jsonl").write_text("{}")
    (folder.path / "trees").mkdir(exist_ok=True)
    folder.create({"max_steps": 9}, {}, overwrite=True)
    assert sorted(os.listdir(folder.path)) == ["config.yaml", "env.json"]
    assert folder.path.is_symlink() == (kept == "run")
    assert disk.is_dir()
    assert folder.settings() == {"max_steps": 9}


def test_a_folder_is_trained_in_by_one_process_and_its_lock_is_no_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    with folder.locked():
        folder.create({"max_steps": 8}, {})  # neither does the lock take the place
        folder.create({"max_steps": 9}, {}, overwrite=True)  # nor is it deleted
        with pytest.raises(CheckpointError, match=rf"run is being trained by process {os.getpid()} on \S+; wait"):
            folder.locked().__enter__()
    with folder.locked():
        assert folder.settings() == {"max_steps": 9}


def test_a_result_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    file = folder.path / "eval.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert folder.read_eval() == {"before": {"avg": 0.0}, "after": {"avg": 0.8}}
