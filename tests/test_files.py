"""Files appear whole or not at all, through symbolic links, and errors name them; a lock is held by one process."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ibtpo._files import append, locked, naming, whole_file, write_whole


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with whole_file(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")

    def fill() -> None:
        with whole_file(file) as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device") as found:
        fill()
    assert found.value.filename == str(file)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "link.txt", tmp_path / "disk" / "file.txt"
    link.symlink_to(target)
    if there:
        target.write_text("old")
    write_whole(link, "new")
    append(link, " and more")
    assert link.is_symlink()
    assert target.read_text() == "new and more"
    assert os.listdir(tmp_path / "disk") == ["file.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_is_named_with_the_file() -> None:
    with pytest.raises(OSError, match="No space left on device") as found:
        append(Path("/dev/full"), "text")
    assert found.value.filename == "/dev/full"


def test_a_file_that_cannot_be_made_is_named_as_the_user_knows_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "none" / "a.html", "text")
    assert caught.value.filename == str(tmp_path / "none" / "a.html")


def test_an_error_that_names_a_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as found, naming(Path("other")):
        (tmp_path / "gone").read_text()
    assert found.value.filename == str(tmp_path / "gone")


HOLD = """
import sys, time
from pathlib import Path
from ibtpo._files import locked
with locked(Path(sys.argv[1])) as alone:
    print(alone, flush=True)
    time.sleep(600)
"""


def hold(file: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", HOLD, str(file)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_one_process_has_a_lock_and_a_killed_one_leaves_none(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first: Any = hold(file)
    try:
        assert first.stdout.readline() == "True\n"
        with locked(file) as alone:
            assert not alone
        assert file.read_text().startswith(f"process {first.pid} on ")
    finally:
        first.kill()
        first.wait()
    assert file.exists()
    for _ in range(2):
        with locked(file) as alone:
            assert alone
        assert not file.exists()
