"""The GPU suite on a CPU, in its tiny form and as on a machine without TRL; and what its report counts as passed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "gpu"))

from gpu_report import Report  # noqa: E402

# Makes Python start without some of the packages that are installed.
WITHOUT = """
import importlib.machinery
real = importlib.machinery.PathFinder.find_spec
def find(name, path=None, target=None):
    return None if name.split(".")[0] in ("trl", "datasets", "dill", "math_verify") else real(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find)
"""


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script of the suite in its tiny form; what it writes goes to `folder`."""
    (folder / "absent").mkdir()
    (folder / "absent" / "sitecustomize.py").write_text(WITHOUT)
    environment = {
        **os.environ, "PYTHON": sys.executable, "OUT": str(folder), "WHEELS": str(folder / "none"),
        "PYTHONPATH": str(folder / "absent"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = ["bash", str(ROOT / "scripts" / "gpu" / script), "--tiny"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.thorough
def test_the_checks_pass_on_a_cpu_and_notice_each_mistake_that_is_made_on_purpose(tmp_path: Path) -> None:
    done = run("check.sh", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["passed"]
    assert found["card"] == "no GPU"
    assert found["env"]["packages"]["torch"]
    checks = {check["name"]: check for check in found["checks"]}
    assert len(checks) == len(found["checks"])
    for kind in ("sdpa", "flex_attention"):
        exact, rounded = (f"shared prefixes, tiny, {kind}, {dtype}" for dtype in ("float32", "bfloat16"))
        assert checks[f"{exact}: largest gradient difference"]["measured"] < 1e-4
        assert checks[f"{exact}: with a wrong mask"]["measured"] > 0.1
        assert checks[f"{rounded}: gradient error over the unshared update's"]["measured"] < 2
        assert checks[f"{rounded}: with a wrong mask"]["measured"] > 10
        assert "without TRL" in checks[f"{exact}: loss"]["note"]
    for dtype in ("float32", "bfloat16"):
        assert checks[f"trees, tiny, {dtype}: trajectories that are not what was sampled"]["measured"] == 0
        assert checks[f"trees, tiny, {dtype}: trajectories"]["measured"] == 24
    for size in (1, 3, 16):
        assert checks[f"batches of {size}, tiny, float32: share with the tokens of batches of 16"]["measured"] == 1
        assert checks[f"batches of {size}, tiny, float32: largest log-prob gap"]["measured"] < 1e-4
    assert abs(checks["draws follow the softmax: χ² in standard deviations"]["measured"]) < 4
    assert checks["FSDP2, tiny: largest gradient difference"]["measured"] < 1e-6
    assert checks["sampling killed and resumed: trees missing or twice"]["measured"] == 0
    assert checks["sampling killed and resumed: trees on disk that changed"]["measured"] == 0
    skipped = [name for name, check in checks.items() if check["state"] == "skip"]
    assert skipped == ["kill and resume training"]
    assert "wheels.sh" in checks["kill and resume training"]["note"]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_benchmarks_run_on_a_cpu_and_write_rows(tmp_path: Path) -> None:
    done = run("bench.sh", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "skip full training step: TRL is not installed" in done.stdout
    rows: list[dict[str, Any]] = json.loads((tmp_path / "results-gpu.json").read_text())
    peers = {row["name"].split(",")[0]: row["peer"] for row in rows}
    assert peers == {
        "decode step": "its kernels alone",
        "update": "a forward of every trajectory, without TRL",
        "plain rollouts": "model.generate",
        "tree rollouts": "model.generate in rounds",
        "a question": "8 independent answers, scaled to equal tokens",
    }
    assert [row["name"].split(", ")[-1] for row in rows if "a question" in row["name"]] == ["2 prompts", "4 prompts"]
    for row in rows:
        assert math.isfinite(row["ratio"])
        assert row["ours"] > 0 < row["theirs"]
        assert row["runs"] >= 1
        assert "torch" in row["machine"]
    (update,) = (row for row in rows if row["name"].startswith("update"))
    assert float(update["note"].split()[0]) < 0.7  # of the padded positions
    assert update["target"] == pytest.approx(0.8 / float(update["note"].split()[0]), rel=0.02)
    (step,) = (row for row in rows if row["name"].startswith("decode step"))
    assert "% of the time in kernels" in step["note"]


def test_what_is_out_of_bounds_not_a_number_or_raises_fails_the_suite(tmp_path: Path, capsys: Any) -> None:
    def raises() -> None:
        raise ValueError("no such kernel")

    report = Report(tmp_path / "good.json", 60)
    report.add("small", 0.5, 1)
    report.add("large", 2.0, 1, least=True)
    report.add("only told", 7.0, None)
    report.skip("left out", "no GPU")
    assert report.finish() == 0
    assert "2 passed, 0 failed, 1 skipped" in capsys.readouterr().out
    for name, act in {
        "high": lambda r: r.add("high", 2.0, 1),
        "low": lambda r: r.add("low", 0.5, 1, least=True),
        "nan": lambda r: r.add("nan", math.nan, 1),
        "raises": lambda r: r.group("raises", raises),
    }.items():
        report = Report(tmp_path / f"{name}.json", 60)
        act(report)
        assert report.finish() == 1
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert not found["passed"]
        assert [(c["name"], c["state"]) for c in found["checks"]] == [(name, "FAIL")]
    assert "no such kernel" in capsys.readouterr().out


def test_no_group_begins_when_time_is_up(tmp_path: Path) -> None:
    report = Report(tmp_path / "check.json", 0)
    report.group("late", lambda: report.add("made", 0, 1))
    assert report.finish() == 0
    assert [(c.name, c.state) for c in report.checks] == [("late", "skip")]
