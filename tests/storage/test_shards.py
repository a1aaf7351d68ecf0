"""Which problems a shard takes, where it stores them, and how shards are found and put in order again."""

from pathlib import Path

import pytest

from ibtpo.errors import ConfigError
from ibtpo.storage.shards import Shard, interleave, sharded_files, shards_of


def test_shards_take_every_nth_problem_and_are_put_in_order_again() -> None:
    problems = list("abcdefg")
    parts = [Shard(i, 3).of(problems) for i in (1, 2, 3)]
    assert parts == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert interleave(parts, Path("t.jsonl")) == problems


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "a/b", "1/0", "-1/4", "1/4/2"])
def test_what_is_no_shard_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="a shard is I/N with I from 1 to N, such as 2/4; got"):
        Shard.parse(text)


def test_more_shards_than_problems_are_an_error() -> None:
    assert Shard.parse("2/2").of("ab") == ["b"]
    with pytest.raises(ConfigError, match="--shard 2/3: only 2 problems"):
        Shard.parse("2/3").of("ab")


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        ("trees.jsonl.gz", "trees.shard-2-of-3.jsonl.gz"),
        ("ib_beta-1.5.jsonl", "ib_beta-1.5.shard-2-of-3.jsonl"),
        ("eval.json", "eval.shard-2-of-3.json"),
    ],
)
def test_a_shard_has_a_file_of_its_own_beside_the_whole(tmp_path: Path, whole: str, part: str) -> None:
    assert Shard(2, 3).file(tmp_path / whole) == tmp_path / part


def test_the_shards_of_a_file_are_found_by_number(tmp_path: Path) -> None:
    whole = tmp_path / "trees.jsonl"
    files = [Shard(i, 11).file(whole) for i in range(1, 12)]
    for file in (*files, tmp_path / "more-trees.shard-1-of-2.jsonl", tmp_path / "trees.shard-1-of-2.jsonl.gz"):
        file.touch()
    assert shards_of(whole) == files
    names = ["more-trees.jsonl", "trees.jsonl", "trees.jsonl.gz"]
    assert sharded_files(tmp_path) == [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no shards of .*t.jsonl: expected files such as t.shard-1-of-2.jsonl beside it"),
        (["t.shard-2-of-3.jsonl"], "t.jsonl: not there yet: shard 1/3, 3/3"),
        (["t.shard-1-of-2.jsonl", "t.shard-2-of-2.jsonl.partial"], "shard 2/2 is not finished; go on with it with"),
        (["t.shard-1-of-1.jsonl", "t.shard-1-of-2.jsonl"], "there are shards of 1 and 2; delete those"),
    ],
)
def test_shards_that_are_not_all_there_are_told(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=message):
        shards_of(tmp_path / "t.jsonl")


def test_parts_that_are_no_shards_of_one_set_are_told() -> None:
    with pytest.raises(ConfigError, match=r"t\.jsonl: its shards hold 2, 3 problems, which are no shards of one set"):
        interleave([[1, 2], [3, 4, 5]], Path("t.jsonl"))
