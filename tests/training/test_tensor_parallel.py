"""Processes that share a vLLM: two of them grow the same trees with the first one's verdicts, and keep their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT

pytest.importorskip("torch")

# Each process has its own questions, of which one is in both, and a verifier that says 1 in the first and 0 in the
# other. An answer of the third call fails in the first process.
PROCESS = """
import asyncio, json, sys
from pathlib import Path
import torch.distributed as dist
from helpers.searches import EOS, decode, next_token, options, prompts
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.errors import VerifierError
from ibtpo.search import TreeSearch
from ibtpo.training.tensor_parallel import Group
from ibtpo.verify import Verdict

dist.init_process_group("gloo")
rank = dist.get_rank()

class Mine:
    names, may_compare, calls = ("mine",), False, 0

    def score(self, rows):
        self.calls += 1
        if any(row.get("answer") == "fail" for row in rows):
            raise VerifierError("no judge")
        return [Verdict(float(row["completion_ids"].count(1) % 2 == rank), (float(rank),)) for row in rows]

mine = Mine()
group = Group(dist.group.WORLD, mine)
own = prompts(3)[:2] if rank == 0 else prompts(3)[1:]
search = TreeSearch(ScriptedEngine(next_token, [EOS]), group.verifier, decode, options(deterministic=True, seed=4))
whole = asyncio.run(search.grow_all(group.prompts(own)))
kept = group.own(whole)
try:
    group.verifier.score([{"answer": "fail", "completion_ids": []}])
    error = None
except VerifierError as e:
    error = str(e)
found = {
    "whole": [tree.to_dict() for tree in whole], "kept": [tree.id for tree in kept], "calls": mine.calls,
    "error": error, "functions": [v.per_function for tree in kept for v in search.verdicts[tree.id]],
}
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
"""


def test_two_processes_grow_the_trees_of_both_and_keep_their_own(tmp_path: Path) -> None:
    (tmp_path / "process.py").write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(tmp_path / "process.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert [tree["id"] for tree in first["whole"]] == ["p0", "p1", "p1+", "p2"]
    assert first["whole"] == second["whole"]
    assert (first["kept"], second["kept"]) == (["p0", "p1"], ["p1+", "p2"])
    assert first["whole"][1]["nodes"] != first["whole"][2]["nodes"]  # the question of both has two trees
    assert set(map(tuple, first["functions"] + second["functions"])) == {(0.0,)}
    assert first["calls"] > 1
    assert second["calls"] == 0
    assert first["error"] == second["error"] == "no judge"
