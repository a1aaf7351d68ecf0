"""Growing trees into a file: what is on disk after a stop, what is grown again, what is refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.searches import EOS, Recorder, decode, dicts, grow, next_token, options, parity, prompts
from helpers.trees import FunctionVerifier
from ibtpo._version import __version__
from ibtpo.engines.scripted import ScriptedEngine
from ibtpo.errors import ConfigError, EngineError
from ibtpo.evaluation.stored_trees import grow_stored, made_by
from ibtpo.search import SearchOptions, TreeSearch
from ibtpo.storage.tree_file import TreeFile
from ibtpo.tree import read_trees

META = {"model": "scripted", "verifier": "parity"}


def search_of(engine: Any = None, o: SearchOptions | None = None) -> TreeSearch:
    engine = engine or ScriptedEngine(next_token, [EOS])
    return TreeSearch(engine, FunctionVerifier(parity), decode, o or options("2,3,1,1", max_in_flight=1))


def stored(path: Path) -> list[dict[str, Any]]:
    return [tree.to_dict() for tree in read_trees(path)]


def test_the_file_holds_the_search_s_trees_in_order_of_the_prompts_with_what_made_them(tmp_path: Path) -> None:
    file, seen = TreeFile(tmp_path / "t.jsonl"), []
    engine = ScriptedEngine(next_token, [EOS], delay=lambda seed: seed % 5 * 1e-3)
    o = options("2,3,1,1")
    grow_stored(search_of(engine, o), prompts(5), file, meta=META, on_tree=lambda t, new: seen.append((t.id, new)))
    expected = grow(o, prompts(5))
    for tree in expected:
        tree.meta |= META
    assert stored(file.path) == json.loads(json.dumps(dicts(expected)))
    assert sorted(seen) == [(f"p{i}", True) for i in range(5)]
    assert not file.part.exists()


def test_without_a_file_trees_are_only_announced(tmp_path: Path) -> None:
    seen = []
    grow_stored(
        search_of(), prompts(3), None, meta=META, on_tree=lambda tree, new: seen.append((tree.meta["model"], new))
    )
    assert seen == [("scripted", True)] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_writes_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = TreeFile(tmp_path / "t.jsonl")
    grow_stored(search_of(), prompts(2), file, meta=META)
    before = stored(file.path)
    with file.alone(), pytest.raises(ConfigError, match=r"t\.jsonl is being written by another process; wait"):
        grow_stored(search_of(), prompts(3), TreeFile(file.path), meta=META, resume=True)
    assert stored(file.path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]
    grow_stored(search_of(), prompts(3), file, meta=META, resume=True)
    assert stored(file.path)[:2] == before


def test_a_stopped_run_keeps_its_trees_and_goes_on_to_the_same_file(tmp_path: Path) -> None:
    whole, file = TreeFile(tmp_path / "whole.jsonl"), TreeFile(tmp_path / "t.jsonl")
    grow_stored(search_of(), prompts(5), whole, meta=META)

    class Failing(Recorder):
        async def generate(self, *arguments: Any) -> Any:
            if len(self.log) >= 2 * 4:
                raise EngineError("the power went out")
            return await super().generate(*arguments)

    o = options("2,3,1,1", max_in_flight=1, retries=0)
    with pytest.raises(EngineError, match="the power went out; 2 of 5 trees are kept, go on with --resume"):
        grow_stored(search_of(Failing(next_token, [EOS]), o), prompts(5), file, meta=META)
    assert len(file.part.read_bytes().splitlines()) == 2
    engine, seen = Recorder(next_token, [EOS]), []
    again = search_of(engine)
    grow_stored(again, prompts(5), file, meta=META, resume=True, on_tree=lambda t, new: seen.append((t.id, new)))
    assert seen == [("p0", False), ("p1", False), ("p2", True), ("p3", True), ("p4", True)]
    assert len(engine.log) == 3 * 4
    assert file.path.read_bytes() == whole.path.read_bytes()


def test_a_run_that_fails_before_its_first_tree_leaves_nothing(tmp_path: Path) -> None:
    file = TreeFile(tmp_path / "t.jsonl")
    engine = ScriptedEngine(next_token, [EOS], fail=lambda seed: True)
    with pytest.raises(EngineError, match=r"scripted failure for seed \d+$"):
        grow_stored(search_of(engine, options("2,3,1,1", retries=0)), prompts(2), file, meta=META)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"o": options("2,3,1,1", seed=1)}, "seed is 1, but 0 in"),
        ({"meta": {**META, "model": "other"}}, "model is 'other', but 'scripted' in"),
        ({"prompts": prompts(1)}, "holds a tree of 'p1', which --data and --limit leave out"),
    ],
)
def test_trees_of_another_search_are_not_mixed_in(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = TreeFile(tmp_path / "t.jsonl")
    grow_stored(search_of(), prompts(2), file, meta=META)
    before = file.path.read_bytes()
    with pytest.raises(ConfigError, match=message):
        grow_stored(
            search_of(o=change.get("o")),
            change.get("prompts", prompts(2)),
            file,
            meta=change.get("meta", META),
            resume=True,
        )
    assert file.path.read_bytes() == before


def test_it_works_where_an_event_loop_is_running(tmp_path: Path) -> None:
    file = TreeFile(tmp_path / "t.jsonl")

    async def cell() -> None:
        grow_stored(search_of(), prompts(2), file, meta=META)

    asyncio.run(cell())
    assert [tree.id for tree in read_trees(file.path)] == ["p0", "p1"]


def test_what_a_tree_says_of_its_origin() -> None:
    assert made_by("nano", "walk") == {"ibtpo": __version__, "model": "nano", "verifier": "walk"}
