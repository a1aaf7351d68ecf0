"""Small inputs on which graders fail, kept outside of the project: `*.jsonl` with rows of gold, completion and `want`.

The folder is the environment variable IBTPO_CASES, else `../shared/cases` beside the project. Scripts there (`*.sh`,
`*.py`) print what happened and then `WANT:`, for a person to compare; they are run where IBTPO_RUN_CASES=1.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ibtpo.verify.pool import VerifierPool

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("IBTPO_CASES", ROOT.parent / "shared" / "cases"))
FILES = sorted(FOLDER.glob("F*.jsonl"))
SCRIPTS = sorted([*FOLDER.glob("F*.sh"), *FOLDER.glob("F*.py")])
ABSENT = f"no cases in {FOLDER}: name a folder of them in IBTPO_CASES"

pytest.importorskip("math_verify")


@pytest.mark.skipif(not FILES, reason=ABSENT)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_row_gets_the_grade_that_it_wants(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = []
    for name in dict.fromkeys(row.get("verifier", "math") for row in rows):
        mine = [row for row in rows if row.get("verifier", "math") == name]
        with VerifierPool(name, workers=1) as pool:
            verdicts = pool.score([{"prompt": "q", "completion": r["completion"], "answer": r["gold"]} for r in mine])
        wrong += [(row, v.reward, v.error) for row, v in zip(mine, verdicts, strict=True) if v.reward != row["want"]]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPTS, reason=ABSENT)
@pytest.mark.skipif(os.environ.get("IBTPO_RUN_CASES") != "1", reason="scripts are run with IBTPO_RUN_CASES=1 only")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_says_what_happened_and_what_is_wanted(path: Path) -> None:
    command = [sys.executable] if path.suffix == ".py" else ["bash"]
    environment = {**os.environ, "PYTHON": sys.executable, "IBTPO": str(Path(sys.executable).with_name("ibtpo"))}
    done = subprocess.run([*command, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    print(done.stdout)
    assert "WANT:" in done.stdout
