"""Writing files so that an earlier result outlives whatever goes wrong: a kill, a full disk, a second process."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota or the largest file is full


def real_path(path: Path) -> Path:
    """Where a file is written: a symbolic link stays, and what it points to is written, as a shell does."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives each `OSError` of the block the file's name: writing to an open file raises errors that have none."""
    try:
        yield
    except OSError as e:
        if e.filename is not None or e.errno is None:
            raise
        raise OSError(e.errno, e.strerror, str(path)) from e


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the block the name of a file to write, which takes the name `path` when the block ends.

    So `path` appears whole or not at all, and an earlier file of that name stays until then. If the block raises, what
    it wrote is removed.
    """
    target = real_path(path)
    part = target.with_name(target.name + ".part")
    try:
        with naming(path):
            yield part
            os.replace(part, target)
    except BaseException as e:
        if isinstance(e, OSError) and e.filename == str(part):
            e.filename = str(path)  # the name that the user knows
        with suppress(OSError):
            part.unlink()
        raise


def write_whole(path: Path, text: str) -> None:
    """Writes a file of text so that it appears whole or not at all, see `whole_file`."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def append(path: Path, text: str) -> None:
    """Adds text to the end of a file, which is made if it is not there. Errors name the file."""
    with naming(path), path.open("a", encoding="utf-8", newline="") as f:
        f.write(text)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds the lock of a file while the block runs, and gives it whether this is the only process that does.

    The kernel drops the lock when the process ends, however it ends. The file is removed when the block ends; one that
    a killed process left behind means nothing. Where the system or the file system knows no such locks, the block
    always gets True.

    path: the file, made if it is not there, whose text then says which process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    with ExitStack() as opened:
        while True:
            file = opened.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:  # some network file systems have no locks
                break
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
            opened.close()  # the process that had it locked has just removed it: another may have a new one
        with naming(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        try:
            yield True
        finally:
            with suppress(OSError):
                path.unlink()
