"""Runs untrusted Python in a sandbox: without network, files, processes or privileges, in limits of time and memory.

    with Sandbox() as box:
        run = box.run("print(sum(map(int, input().split())))", stdin="1 2")
    assert run.stdout == "3\\n"

Bubblewrap, or else nsjail, Podman or Docker (`launchers`), gives the code namespaces of its own, and `driver`, inside
it, a process for each run with resource limits and a filter of system calls. Before any run the driver reports what
holds of such a process; where something promised does not, `DependencyError` is raised. There is no way to run code
with less.
"""

import base64
import contextlib
import json
import os
import select
import subprocess
import time
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DependencyError
from . import launchers
from .limits import Limits
from .syscalls import seccomp_filter

__all__ = ["NOTHING", "Limits", "Run", "Sandbox", "require"]

_START_TIMEOUT = 60.0  # seconds until the driver must have reported
_STOP_TIMEOUT = 5.0  # seconds until a container must have ended by itself
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
_STATUS = {  # lines of /proc/self/status, as they must be in a process that runs untrusted code
    "CapPrm": "0000000000000000",
    "CapEff": "0000000000000000",
    "CapAmb": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
}
_PAGE = 1 << 16  # bytes to which the kernel rounds the size of /tmp up, at most
_NOISE = ("--help", "logParams()")  # in lines that do not say why a sandbox could not be started


class _UnfitError(Exception):
    """A launcher that does not work here, or isolates less than it must. Its text says why."""


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

    `launcher` is the name of the program that isolates the code: the first of `launchers.LAUNCHERS` that does.

    Raises `DependencyError` where the code cannot be isolated: no such program is installed, or the system forbids what
    it needs.
    """

    def __init__(self, limits: Limits | None = None, *, deadline: float = 600.0) -> None:
        self.limits = limits or Limits()
        programs = launchers.present()
        setup = {"filter": base64.b64encode(seccomp_filter()).decode(), "limits": asdict(self.limits)}
        unfit = []
        for name, program in programs.items():
            try:
                self._open(launchers.LAUNCHERS[name](program, self.limits), setup)
            except _UnfitError as error:
                reason = str(error).removeprefix(f"{name}: ")  # most begin their complaints with their name
                unfit.append(f"{name}: {reason} ({_advice(name, reason)})")
                continue
            self.launcher = name
            self._ends = time.monotonic() + deadline
            return
        raise DependencyError(f"untrusted code cannot be isolated here: {'; '.join(unfit)}")

    def _open(self, launch: launchers.Launch, setup: dict[str, Any]) -> None:
        """Starts the driver and checks what it reports. Raises `_UnfitError` after ending it if that is not enough."""
        self._launch = launch
        self._process = subprocess.Popen(
            launch.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=launch.environment,
            cwd="/",
            start_new_session=True,
        )
        try:
            report = self._ask({**setup, "uid": launch.uid}, time.monotonic() + _START_TIMEOUT)
            if report is None:
                raise _UnfitError(self._last_words())
            _check(report, self.limits)
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
        if self._launch.stop is not None and self._process.poll() is None:
            assert self._process.stdin is not None, "a pipe was asked for"
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # the driver ends then, and the container with it
            try:
                self._process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                subprocess.run(self._launch.stop, capture_output=True, check=False)
        self._process.kill()  # the kernel ends the rest: the namespace dies with bubblewrap or nsjail
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
        text = self._process.stderr.read().decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip() and not any(word in line for word in _NOISE)]
        return lines[self._launch.cause].strip() if lines else "it ended without a word"


def require() -> None:
    """Checks that code can be isolated here. Raises `DependencyError` that says what is missing if it cannot."""
    Sandbox().close()


def _check(report: dict[str, Any], limits: Limits) -> None:
    """Raises `_UnfitError` if a process in the sandbox is less isolated than it must be.

    report: what the driver says of it, see `driver`.
    """
    if not report["status"]:
        raise _UnfitError((report["error"].strip().splitlines() or ["a process could not be confined"])[-1])
    shared = {name for name, space in report["namespaces"].items() if space == os.readlink(f"/proc/self/ns/{name}")}
    for name in _NAMESPACES:
        if name in shared:
            raise _UnfitError(f"the code would have the {name} namespace of this process")
    if report["networks"]:
        raise _UnfitError(f"the code would have a network: {', '.join(report['networks'])}")
    if not report["read_only"]:
        raise _UnfitError("the code could write outside /tmp")
    if report["scratch"] > limits.scratch + _PAGE:
        raise _UnfitError(f"the code could write {report['scratch']} bytes to /tmp, not {limits.scratch}")
    status = dict(line.split(":\t", 1) for line in report["status"].splitlines() if ":\t" in line)
    for name, wanted in _STATUS.items():
        if status.get(name) != wanted:
            raise _UnfitError(f"the code would run with {name} {status.get(name)}, not {wanted}")
    uid = int(status["Uid"].split()[0])
    if uid == 0:
        raise _UnfitError("the code would run as root")
    if "user" in shared and uid == os.getuid():
        raise _UnfitError("the code would run as the user of this process, in the user namespace of this process")


def _advice(launcher: str, reason: str) -> str:
    """What may help where a launcher does not work."""
    if "--size" in reason or "--perms" in reason:
        return "install bubblewrap 0.7 or newer"
    if "image not known" in reason or "No such image" in reason:
        return f"{launcher} pull {launchers.image()}"
    if launcher in ("bwrap", "nsjail") and any(
        word in reason for word in ("amespace", "CLONE_NEW", "ermission", "ermitted")
    ):
        return "allow user namespaces, or see docs/code.md for containers"
    return "docs/code.md says what it needs of the system and of containers"


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
