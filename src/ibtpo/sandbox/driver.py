"""Runs inside the sandbox, as a script: gives up what privileges it has, and forks a process for each run.

It speaks JSON, a line a message, on standard input and output:

    host → driver   {"filter", "uid", "limits"}                  once
    driver → host   {"namespaces", "networks", "read_only",      once: what holds of a process that runs untrusted code
                     "scratch", "status", "error"}
    host → driver   a run, see `perform`                         any number of times
    driver → host   {"ended", "stdout", "stderr", "value"}

Nothing of this package can be imported here. Untrusted code has a process of its own, to which this one is closed: it
never learns what answer is expected, and cannot send one.
"""

import ast
import atexit
import base64
import ctypes
import json
import math
import os
import resource
import select
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_FILTER = 4, 22, 38, 2
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_OURS = 3  # processes that count beside the threads of a run: bubblewrap's, this one, and the run itself
_INPUT = 0  # the file descriptor of this process's standard input
_VALUE = 3  # the file descriptor to which a run writes the value of an expression
_BROKEN = 70  # how a run ends that could not be confined; the code has not been started then


class _Filter(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def main() -> None:
    """Serves the host until it closes the pipe."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    setup = json.loads(requests.readline())
    os.chdir("/tmp")
    place = _place()
    if setup["uid"] is not None:
        os.setgroups([])
        os.setresgid(setup["uid"], setup["uid"], setup["uid"])
        os.setresuid(setup["uid"], setup["uid"], setup["uid"])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    program = base64.b64decode(setup["filter"])
    seccomp = _Filter(len(program) // 8, program)

    def control(option: int, *arguments: int) -> None:
        if libc.prctl(option, *arguments, *[0] * (4 - len(arguments))):
            raise OSError(ctypes.get_errno(), f"prctl({option}) failed")

    def confine() -> None:
        _limit(setup["limits"])
        control(_PR_SET_NO_NEW_PRIVS, 1)
        control(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.addressof(seccomp))

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    # Closes this process's memory, files and folder in /proc to all others, its children among them.
    control(_PR_SET_DUMPABLE, 0)
    probe = _run({"code": "print(open('/proc/self/status').read())"}, setup["limits"], confine)
    send({**place, "status": probe["stdout"], "error": probe["stderr"]})
    for line in requests:
        send(_run(json.loads(line), setup["limits"], confine))


def _place() -> dict[str, Any]:
    """What all processes of the sandbox have in common.

    namespaces: kind -> the kernel's name of it.
    networks: interfaces with an address or a route, without the one that leads back here.
    read_only: whether the root of the file system is.
    scratch: the size of the file system of /tmp in bytes.
    """
    networks = set()
    for name, column in (("/proc/net/route", 0), ("/proc/net/if_inet6", -1)):
        if os.path.exists(name):
            with open(name) as lines:
                networks |= {line.split()[column] for line in lines} - {"Iface", "lo"}
    scratch = os.statvfs("/tmp")
    return {
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES},
        "networks": sorted(networks),
        "read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "scratch": scratch.f_blocks * scratch.f_frsize,
    }


def _limit(limits: dict[str, Any]) -> None:
    """Sets the limits of this process, which it cannot raise again."""
    seconds = math.ceil(limits["seconds"])
    for what, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # the first sends a signal that tells why, the second ends it
        (resource.RLIMIT_AS, limits["memory"], limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["output"], limits["output"]),
        (resource.RLIMIT_NOFILE, limits["files"], limits["files"]),
        (resource.RLIMIT_NPROC, limits["threads"] + _OURS, limits["threads"] + _OURS),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


def _run(work: dict[str, Any], limits: dict[str, Any], confine: Callable[[], None]) -> dict[str, Any]:
    """Does `work`, see `perform`, in a process of its own, and tells how it ended and what it wrote."""
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr", "value")]
    with os.fdopen(os.dup(files[0]), "wb") as stdin:
        stdin.write(work.get("stdin", "").encode("utf-8", "replace"))
    os.lseek(files[0], 0, os.SEEK_SET)
    pid = os.fork()
    if pid == 0:
        try:
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.closerange(_VALUE + 1, 4096)
            confine()
            perform(work)
        finally:
            os._exit(_BROKEN)
    pidfd = os.pidfd_open(pid)
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    waiting.register(_INPUT, 0)  # tells only that the host has closed it or is gone: then all ends at once
    ready = dict(waiting.poll(1000 * limits["patience"]))
    if _INPUT in ready:
        os._exit(0)
    in_time = bool(ready)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not in_time or code == -signal.SIGXCPU:
        ended = "timeout"
    else:
        ended = signal.Signals(-code).name if code < 0 else "error" if code else "ok"
    names = ("stdout", "stderr", "value")
    found = {name: _content(file, limits["output"]) for name, file in zip(names, files[1:], strict=True)}
    for descriptor in (pidfd, *files):
        os.close(descriptor)
    return {"ended": ended, **found}


def _content(file: int, most: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(os.dup(file), "rb") as content:
        return content.read(most).decode("utf-8", "replace")


def perform(work: dict[str, Any]) -> None:
    """Runs untrusted code in this process, and ends the process.

    work: `code`, the program; `setup`, code that is run before it, in its module; `name`, its `__name__`; `stdin`, what
        it may read; and at most one of `expression`, whose value is written down after the program has run; `call`,
        [name, arguments] of a function of which the same is done; `then`, code that must not raise; and `echo`, whether
        the program's last expression is printed, as an interpreter does.
    """
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    sys.argv = ["answer.py"]
    module = types.ModuleType(work.get("name", "__main__"))
    sys.modules[module.__name__] = module
    code = 0
    try:
        _perform(work, module.__dict__)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        frames = traceback.TracebackException.from_exception(error)
        frames.stack = traceback.StackSummary.from_list([f for f in frames.stack if f.filename != __file__])
        print("".join(frames.format()), file=sys.stderr)
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads, as at the end of any
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 1
    os._exit(code & 0xFF)


def _perform(work: dict[str, Any], names: dict[str, Any]) -> None:
    exec(compile(work.get("setup", ""), "setup.py", "exec"), names)
    parsed = ast.parse(work["code"], "answer.py")
    last = parsed.body[-1] if work.get("echo") and parsed.body else None
    if isinstance(last, ast.Expr):
        parsed.body.pop()
    exec(compile(parsed, "answer.py", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "answer.py", "eval"), names)
        if value is not None:
            print(repr(value))
    if "expression" in work:
        _write(eval(compile(work["expression"], "test", "eval"), names))
    if "call" in work:
        name, arguments = work["call"]
        owner: Any = names.get("Solution")
        function = getattr(owner(), name) if hasattr(owner, name) else names[name]  # LeetCode's form, or a function
        _write(function(*arguments))
    if "then" in work:
        exec(compile(work["then"], "test", "exec"), names)
        _write(True)


def _write(value: Any) -> None:
    os.write(_VALUE, json.dumps(plain(value)).encode())


def plain(value: Any) -> Any:
    """A value of Python's basic types as JSON: a list is a list, other containers are {type: items}.

    An object of a derived type becomes one of the basic type, so that no method of the program's own takes part in any
    comparison. Raises `TypeError` for every other type.
    """
    if value is None or isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [plain(item) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(item)] for key, item in dict.items(value)]}
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in tuple.__iter__(value)]}
    if isinstance(value, set):
        return {"set": [plain(item) for item in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"set": [plain(item) for item in frozenset.__iter__(value)]}
    raise TypeError(f"the result is {type(value).__name__}, which is no number, text or container of such")


if __name__ == "__main__":
    main()
