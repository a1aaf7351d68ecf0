"""Runs untrusted Python in bubblewrap: without network, files, processes or privileges, in limits of time and memory.

    with Sandbox() as box:
        run = box.run("print(sum(map(int, input().split())))", stdin="1 2")
    assert run.stdout == "3\\n"

Bubblewrap (`bwrap`) gives the code namespaces of its own, and `driver`, inside it, a process for each run with resource
limits and a filter of system calls. Before any run the driver reports what holds of such a process; where something
promised does not, `DependencyError` is raised. There is no way to run code with less.
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DependencyError
from .syscalls import seccomp_filter

INSTALL = "install bubblewrap (apt-get install bubblewrap)"

_DRIVER = Path(__file__).with_name("driver.py")
_START_TIMEOUT = 60.0  # seconds until the driver must have reported
_FIRST_UID = 1 << 30  # from here on user ids that nobody has; a sandbox started by root takes one of its own
_SHARED = ("/usr", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime", "/etc/alternatives")
_UNDER_ROOT = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",  # sets in the same order each time: the same answer gets the same reward
    "PYTHONDONTWRITEBYTECODE": "1",
}
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
_STATUS = {  # lines of /proc/self/status, as they must be in a process that runs untrusted code
    "CapPrm": "0000000000000000",
    "CapEff": "0000000000000000",
    "CapAmb": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
}
_sandboxes = itertools.count()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run of untrusted code may use.

    seconds: CPU time, rounded up to whole seconds.
    patience: seconds by the clock.
    memory: bytes of address space.
    output: bytes of each file, standard output among them.
    scratch: bytes of all files in /tmp, the only folder that can be written; it lasts as long as the sandbox.
    files: open files.
    threads: threads. There are no further processes.
    """

    seconds: float = 6.0
    patience: float = 18.0
    memory: int = 1 << 30
    output: int = 4 << 20
    scratch: int = 32 << 20
    files: int = 64
    threads: int = 16

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"the sandbox's {name} must be positive, got {value}")


@dataclass(frozen=True, slots=True)
class Run:
    """What a run did.

    ended: "ok"; "error" for an exception or an exit code other than 0; "timeout"; or the name of the signal that ended
        it, such as "SIGKILL".
    stdout, stderr: what it printed, at most `Limits.output` bytes of each.
    value: the value of the expression or call that was asked for, of Python's basic types; `NOTHING` if there is none.
    """

    ended: str
    stdout: str
    stderr: str
    value: Any


NOTHING: Any = object()


class Sandbox:
    """A place to run untrusted code, one run after the other; to be used as a context manager.

    limits: what each run may use.
    deadline: how many seconds after its start everything ends, whatever the code does. Runs that are under way or come
        later end as "timeout".

    Raises `DependencyError` where the code cannot be isolated: bubblewrap is missing, or the system forbids what it
    needs.
    """

    def __init__(self, limits: Limits | None = None, *, deadline: float = 600.0) -> None:
        self.limits = limits or Limits()
        root = _is_root()
        self._process = _start(self.limits, root)
        uid = _FIRST_UID + (os.getpid() % (1 << 14) << 15) + next(_sandboxes) % (1 << 15) if root else None
        try:
            setup = {"filter": base64.b64encode(seccomp_filter()).decode(), "uid": uid, "limits": asdict(self.limits)}
            report = self._ask(setup, time.monotonic() + _START_TIMEOUT)
            if report is None:
                raise _cannot(self._last_words())
            _check(report, root)
            self._ends = time.monotonic() + deadline
        except BaseException:
            self.close()
            raise

    def run(self, code: str, *, stdin: str = "", **work: Any) -> Run:
        """Runs a program in a process of its own.

        code: the program, as text.
        stdin: what it can read from standard input.
        work: `name`, `expression`, `call`, `then` and `echo`, see `driver.perform`.
        """
        answer = None
        if time.monotonic() < self._ends and self._process.poll() is None:
            answer = self._ask({"code": code, "stdin": stdin, **work}, self._ends)
        if answer is None:  # out of time, or it has killed the driver, which is all that it can reach
            ended = "timeout" if time.monotonic() >= self._ends else "SIGKILL"
            self.close()
            return Run(ended, "", "", NOTHING)
        try:
            value = _basic(json.loads(answer["value"])) if answer["value"] else NOTHING
        except (ValueError, TypeError, RecursionError):  # what the code has written there, not the driver
            value = NOTHING
        return Run(answer["ended"], answer["stdout"], answer["stderr"], value)

    def close(self) -> None:
        """Ends everything in the sandbox."""
        self._process.kill()  # the kernel ends the rest: the namespace dies with bubblewrap
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: dict[str, Any], until: float) -> dict[str, Any] | None:
        """The driver's answer to a message; None if it is gone or has not answered until then."""
        assert self._process.stdin is not None, "a pipe was asked for"
        assert self._process.stdout is not None, "a pipe was asked for"
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        waiting = select.poll()
        waiting.register(self._process.stdout, select.POLLIN)
        parts: list[bytes] = []
        while not parts or b"\n" not in parts[-1]:
            if not waiting.poll(1000 * max(0.0, until - time.monotonic())):
                return None
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                return None
            parts.append(part)
        answer: dict[str, Any] = json.loads(b"".join(parts))
        return answer

    def _last_words(self) -> str:
        self._process.kill()
        assert self._process.stderr is not None, "a pipe was asked for"
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


def require() -> None:
    """Checks that code can be isolated here. Raises `DependencyError` that says what is missing if it cannot."""
    Sandbox().close()


def _is_root() -> bool:
    """Whether this process is the system's own root, not that of a container with user ids of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", str((1 << 32) - 1)]


def _start(limits: Limits, root: bool) -> "subprocess.Popen[bytes]":
    """Starts bubblewrap with the driver in it."""
    if sys.platform != "linux":
        raise DependencyError(f"untrusted code can be isolated on Linux only, not on {sys.platform}")
    command = shutil.which("bwrap")
    if command is None:
        raise DependencyError(f"untrusted code runs in a sandbox only: {INSTALL}")
    return subprocess.Popen(
        [command, *_arguments(limits, root), sys.executable, "-s", "-P", "/driver.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},  # its own environment could be read in /proc
        cwd="/",
        start_new_session=True,
    )


def _arguments(limits: Limits, root: bool) -> Iterator[str]:
    """Bubblewrap's options.

    root: whether it is started by root. Then it makes no user namespace, in which the code would still be root to the
        kernel and its processes not counted; the driver takes a user id of its own instead.
    """
    yield from ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup")
    yield from ("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv")
    if root:
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield from ("--unshare-user", "--uid", "65534", "--gid", "65534")
    for name, value in _ENVIRONMENT.items():
        yield from ("--setenv", name, value)
    yield from ("--perms", "1777", "--size", str(limits.scratch), "--tmpfs", "/tmp")
    shared = list(dict.fromkeys((*_SHARED, sys.base_prefix, sys.prefix)))
    for folder in dict.fromkeys(str(parent) for path in shared for parent in reversed(Path(path).parents[:-1])):
        if folder != "/tmp":
            yield from ("--perms", "0755", "--dir", folder)  # made by bubblewrap itself, only its owner could enter
    for path in shared:
        yield from ("--ro-bind-try", path, path)
    for path in (f"/{name}" for name in _UNDER_ROOT):
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        else:
            yield from ("--ro-bind-try", path, path)
    yield from ("--ro-bind", str(_DRIVER), "/driver.py", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev")
    yield from ("--remount-ro", "/", "--chdir", "/tmp")


def _check(report: dict[str, Any], root: bool) -> None:
    """Raises `DependencyError` if a process in the sandbox is less isolated than it must be.

    report: what the driver says of it.
    """
    if not report["status"]:
        raise _cannot((report["error"].strip().splitlines() or ["a process could not be confined"])[-1])
    for name in _NAMESPACES if root else (*_NAMESPACES, "user"):
        if report["namespaces"][name] == os.readlink(f"/proc/self/ns/{name}"):
            raise _cannot(f"the code would have the {name} namespace of this process")
    status = dict(line.split(":\t", 1) for line in report["status"].splitlines() if ":\t" in line)
    for name, wanted in _STATUS.items():
        if status.get(name) != wanted:
            raise _cannot(f"the code would run with {name} {status.get(name)}, not {wanted}")
    if status["Uid"].split()[0] == "0":
        raise _cannot("the code would run as root")


def _cannot(reason: str) -> DependencyError:
    """The error that the sandbox does not work here, with what may help."""
    advice = "docs/code.md says what it needs of the system and of containers"
    if "--size" in reason or "--perms" in reason:
        advice = "install bubblewrap 0.7 or newer"
    elif "amespace" in reason or "ermission" in reason or "ermitted" in reason:
        advice = "allow user namespaces, or see docs/code.md for containers"
    return DependencyError(f"untrusted code cannot be isolated here: {reason}; {advice}")


def _basic(value: Any) -> Any:
    """The value that `driver.plain` wrote down. Raises `TypeError` or `ValueError` for what it cannot have written."""
    if isinstance(value, list):
        return [_basic(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "dict":
        return {_basic(key): _basic(item) for key, item in items}
    return {"tuple": tuple, "set": set}[kind](map(_basic, items))
