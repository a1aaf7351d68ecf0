"""One vLLM over two processes of a training run: the losses and the trees are those of one process with its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(folder: Path, processes: int) -> list[dict]:
    folder.mkdir()
    words = [str(HERE / "shared_vllm.py"), str(folder), str(processes)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    distributed = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in os.environ.items() if name not in distributed}
    env["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run([sys.executable, *launcher, *words], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_that_share_a_vllm_train_as_one_does(tmp_path: Path) -> None:
    one, (first, second) = run(tmp_path / "one", 1)[0], run(tmp_path / "two", 2)
    assert (one["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    print("losses", one["losses"], first["losses"], "gaps", one["gap"], first["gap"])
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert len(first["trees"]) == len(second["trees"]) == 2
    assert first["trees"] | second["trees"] == one["trees"]
    assert max(first["gap"], second["gap"]) < 2e-3
