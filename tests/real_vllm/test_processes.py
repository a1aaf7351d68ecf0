"""Training in two processes with real vLLM, one for each or one for both: the losses and trees of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from helpers.on_cpus import HAS_DEEPSPEED, NO_DEEPSPEED, environment, launcher  # noqa: E402


def run(folder: Path, mode: str, processes: int, parallel: int = 1) -> list[dict]:
    folder.mkdir()
    words = [str(HERE / "shared_vllm.py"), str(folder), str(parallel)]
    distributed = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in environment(mode, folder).items() if name not in distributed}
    command = [*launcher(mode, processes=processes), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return run(tmp_path_factory.mktemp("one") / "run", "ddp", 1)[0]


@pytest.mark.parametrize(
    ("mode", "parallel", "held"),
    [
        ("ddp", 2, 1.0),  # the two processes share a vLLM
        ("ddp", 1, 1.0),
        ("fsdp2", 1, 0.5),
        pytest.param("zero3", 1, 0.5, marks=pytest.mark.skipif(not HAS_DEEPSPEED, reason=NO_DEEPSPEED)),
    ],
)
def test_two_processes_train_as_one_does(tmp_path: Path, one: dict, mode: str, parallel: int, held: float) -> None:
    first, second = run(tmp_path / "two", mode, 2, parallel)
    print(mode, parallel, "losses", one["losses"], first["losses"], "gaps", one["gap"], first["gap"], second["gap"])
    assert (one["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    assert (first["held"], second["held"]) == pytest.approx((held, held), abs=0.01)
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert len(first["trees"]) == len(second["trees"]) == 2
    assert first["trees"] | second["trees"] == one["trees"]
    assert max(first["gap"], second["gap"]) < 2e-3
