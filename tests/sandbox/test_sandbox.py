"""What a run gives back, what is shown of it, and refusals where code cannot be isolated."""

import os
import platform
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import sandboxes
from ibtpo import sandbox
from ibtpo.errors import ConfigError, DependencyError
from ibtpo.sandbox import NOTHING, Limits, Sandbox, launchers
from ibtpo.sandbox.syscalls import MACHINES, seccomp_filter


@pytest.fixture(scope="module")
def box() -> Sandbox:
    sandboxes.needs_sandbox()
    with Sandbox() as opened:
        yield opened


def test_a_program_reads_and_prints(box: Sandbox) -> None:
    run = box.run("import sys\nprint(input(), sys.stdin.read())\nprint('é', file=sys.stderr)", stdin="a ü\nb\n")
    assert (run.ended, run.stdout, run.stderr, run.value) == ("ok", "a ü b\n\n", "é\n", NOTHING)


@pytest.mark.parametrize(
    ("code", "ended", "stderr"),
    [
        ("1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("def f(:", "error", "SyntaxError"),
        ("x = '\\0'\nraise SystemExit(3)", "error", ""),
        ("raise SystemExit('no')", "error", "no"),
        ("exit()", "ok", ""),
        ("import os\nos._exit(0)", "ok", ""),
        ("import os\nos.abort()", "SIGABRT", ""),
        ("def f(): f()\nf()", "error", "RecursionError"),
        ("\x00", "error", "null bytes"),
        ("'\ud800'.encode()", "error", "UnicodeEncodeError"),
    ],
)
def test_how_a_run_ends(box: Sandbox, code: str, ended: str, stderr: str) -> None:
    run = box.run(code)
    assert run.ended == ended
    assert stderr in run.stderr
    assert "driver.py" not in run.stderr


def test_threads_and_exit_functions_are_waited_for(box: Sandbox) -> None:
    code = "import threading, atexit, time\natexit.register(print, 'c')\n"
    code += "threading.Thread(target=lambda: (time.sleep(0.1), print('b'))).start()\nprint('a')"
    assert box.run(code).stdout == "a\nb\nc\n"


def test_values_come_back_as_basic_types(box: Sandbox) -> None:
    code = """
from collections import Counter, namedtuple
class Sly(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
P = namedtuple('P', 'x y')
"""
    values = (
        "[None, True, 2**70, 0.5, 'a', (1, [2]), {1, 2}, {(1,): 'b'}, Counter('aa'), P(1, 2), Sly(3), float('inf')]"
    )
    expected = [None, True, 2**70, 0.5, "a", (1, [2]), {1, 2}, {(1,): "b"}, {"a": 2}, (1, 2), 3, float("inf")]
    value = box.run(code, expression=values).value
    assert value == expected
    assert type(value[10]) is int
    assert box.run(code, expression="object()").value is NOTHING
    assert box.run("def add(a, b): return a + b", call=["add", [1, 2]]).value == 3
    assert box.run("class Solution:\n def add(self, a, b): return a + b", call=["add", [1, 2]]).value == 3


def test_what_a_program_writes_as_its_value_cannot_harm(box: Sandbox) -> None:
    for text in ('{"dict": 1}', '{"set": [[1]]}', "[" * 100_000, '{"a": 1, "b": 2}', "nonsense", '{"tuple": 3}'):
        code = f"import os\nos.write(3, {text.encode()!r})\nos._exit(0)"
        assert box.run(code).value is NOTHING


def test_output_is_cut_at_its_limit() -> None:
    sandboxes.needs_sandbox()
    with Sandbox(Limits(output=1000)) as small:
        run = small.run("while True: print('x' * 99)")
        assert run.ended == "error"
        assert len(run.stdout) == 1000


def test_the_same_answer_gets_the_same_result(box: Sandbox) -> None:
    code = "print(hash('a'), list({'a', 'b', 'c', 'd'}))"
    with Sandbox() as other:
        assert box.run(code).stdout == other.run(code).stdout


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        DependencyError, match=r"install bubblewrap \(apt-get install bubblewrap\), else nsjail, podman"
    ):
        Sandbox()
    monkeypatch.setenv("IBTPO_SANDBOX", "nsjail")
    with pytest.raises(DependencyError, match="IBTPO_SANDBOX asks for nsjail, which is not installed"):
        Sandbox()
    monkeypatch.setenv("IBTPO_SANDBOX", "chroot")
    with pytest.raises(ConfigError, match="IBTPO_SANDBOX must be one of bwrap, nsjail, podman, docker, got 'chroot'"):
        Sandbox()


def test_elsewhere_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "sys", SimpleNamespace(platform="darwin", executable=sys.executable))
    with pytest.raises(DependencyError, match="on Linux only, not on darwin"):
        Sandbox()


def programs(folder: Path, **texts: str) -> str:
    """A folder of shell scripts, name -> text, as the path in which programs are looked for."""
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_the_next_launcher_is_tried_where_one_does_not_isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bwrap` fails; `nsjail` isolates nothing, and it is the driver's report that tells."""
    bare = f"exec {sys.executable} {launchers._DRIVER}"
    image = "echo 'docker: Error response from daemon: No such image: x.\n\nRun docker run --help' >&2; exit 125"
    path = programs(
        tmp_path, bwrap="echo 'bwrap: Creating new namespace failed' >&2; exit 1", nsjail=bare, docker=image
    )
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("IBTPO_SANDBOX_IMAGE", "an-image")
    with pytest.raises(DependencyError) as error:
        Sandbox()
    reasons = str(error.value).removeprefix("untrusted code cannot be isolated here: ").split("; ")
    assert [reason.split(": ")[0] for reason in reasons] == ["bwrap", "nsjail", "docker"]
    assert reasons[0].endswith(
        "Creating new namespace failed (allow user namespaces, or see docs/code.md for containers)"
    )
    assert "namespace of this process" in reasons[1] or "not permitted" in reasons[1]
    assert reasons[2].endswith("No such image: x. (docker pull an-image)")


def test_the_launcher_that_works_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bubblewrap = shutil.which("bwrap")
    sandboxes.use(monkeypatch, "bwrap")
    monkeypatch.delenv("IBTPO_SANDBOX")
    monkeypatch.setenv("PATH", programs(tmp_path, bwrap="exit 1", nsjail="exit 1"))
    monkeypatch.setitem(
        launchers.LAUNCHERS, "nsjail", lambda _, limits: launchers.LAUNCHERS["bwrap"](str(bubblewrap), limits)
    )
    with Sandbox() as box:
        assert box.launcher == "nsjail"
        assert box.run("print(1)").stdout == "1\n"


def larger(command: list[str]) -> list[str]:
    return [word.replace(str(Limits().scratch), str(2 * Limits().scratch)) for word in command]


@pytest.mark.parametrize(
    ("launcher", "change", "reason"),
    [
        ("bwrap", sandboxes.dropped("--unshare-net"), "the net namespace of this process"),
        ("bwrap", sandboxes.dropped("--unshare-ipc"), "the ipc namespace of this process"),
        ("bwrap", sandboxes.dropped("--unshare-uts"), "--hostname requires --unshare-uts"),
        ("bwrap", sandboxes.dropped("--unshare-cgroup"), "the cgroup namespace of this process"),
        ("bwrap", sandboxes.dropped("--unshare-pid"), "the pid namespace of this process"),
        ("bwrap", larger, "could write 67108864 bytes to /tmp, not 33554432"),
        ("bwrap", sandboxes.writable_root, "could write outside /tmp"),
        ("nsjail", sandboxes.added("--disable_clone_newnet"), "the net namespace of this process"),
        ("nsjail", sandboxes.added("--disable_clone_newipc"), "the ipc namespace of this process"),
        ("nsjail", sandboxes.added("--disable_clone_newcgroup"), "the cgroup namespace of this process"),
        ("nsjail", sandboxes.added("--rw"), "could write outside /tmp"),
        ("nsjail", larger, "could write 67108864 bytes to /tmp, not 33554432"),
        ("podman", sandboxes.replaced("--network", "none", "host"), "the net namespace of this process"),
        ("podman", sandboxes.replaced("--ipc", "none", "host"), "the ipc namespace of this process"),
        ("podman", sandboxes.replaced("--cgroupns", "private", "host"), "the cgroup namespace of this process"),
        ("podman", sandboxes.replaced("--user", None, "0:0"), "would run as root"),
        ("podman", sandboxes.dropped("--read-only"), "could write outside /tmp"),
        ("podman", larger, "could write 67108864 bytes to /tmp, not 33554432"),
        ("docker", sandboxes.replaced("--network", "none", "host"), "the net namespace of this process"),
        ("docker", sandboxes.replaced("--user", None, "0:0"), "would run as root"),
        ("docker", sandboxes.dropped("--read-only"), "could write outside /tmp"),
    ],
)
def test_less_isolation_than_promised_is_refused(
    launcher: str, change: sandboxes.Change, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandboxes.use(monkeypatch, launcher)
    sandboxes.with_command(monkeypatch, change)
    with pytest.raises(DependencyError, match=reason):
        Sandbox()


def report() -> dict[str, Any]:
    """What a driver reports that is isolated enough."""
    status = {"CapPrm": "0" * 16, "CapEff": "0" * 16, "CapAmb": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    lines = [f"{name}:\t{value}" for name, value in {**status, "Uid": "70000\t70000\t70000\t70000"}.items()]
    return {
        "namespaces": dict.fromkeys(("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"), "another"),
        "networks": [],
        "read_only": True,
        "scratch": Limits().scratch,
        "status": "\n".join(lines),
        "error": "",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads this process's namespaces in /proc")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("CapEff:\t0000000000000000", "CapEff:\t0000000000000400"), "with CapEff 0000000000000400"),
        (("NoNewPrivs:\t1", "NoNewPrivs:\t0"), "with NoNewPrivs 0, not 1"),
        (("Seccomp:\t2", "Seccomp:\t0"), "with Seccomp 0, not 2"),
        (("Uid:\t70000", "Uid:\t0"), "would run as root"),
        ({"networks": ["eth0"]}, "would have a network: eth0"),
        ({"status": "", "error": "x\nOSError: prctl failed\n"}, "OSError: prctl failed"),
    ],
)
def test_what_the_driver_reports_must_hold(change: Any, reason: str) -> None:
    good = report()
    sandbox._check(good, Limits())
    if isinstance(change, tuple):
        change = {"status": good["status"].replace(*change)}
    with pytest.raises(sandbox._UnfitError, match=reason):
        sandbox._check({**good, **change}, Limits())


@pytest.mark.skipif(sys.platform != "linux", reason="reads this process's namespaces in /proc")
def test_without_a_user_namespace_the_code_must_be_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    same = report()
    same["namespaces"]["user"] = os.readlink("/proc/self/ns/user")
    sandbox._check(same, Limits())
    monkeypatch.setattr(sandbox.os, "getuid", lambda: 70000)
    with pytest.raises(sandbox._UnfitError, match="as the user of this process"):
        sandbox._check(same, Limits())


def test_a_system_that_forbids_namespaces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sandboxes.use(monkeypatch, "bwrap")
    sandboxes.with_command(monkeypatch, lambda command: [command[0], "--no-such-option"])
    with pytest.raises(DependencyError, match=r"cannot be isolated here: .*no-such-option.*docs/code\.md"):
        Sandbox()


def test_a_machine_without_a_list_of_calls_is_refused() -> None:
    with pytest.raises(DependencyError, match="cannot be isolated on riscv64"):
        seccomp_filter("riscv64")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_jumps_to_instructions_of_its_own(machine: str) -> None:
    program = seccomp_filter(machine)
    length = len(program) // 8
    assert length <= 4096
    for i in range(length):
        code, if_true, if_false = program[8 * i], program[8 * i + 2], program[8 * i + 3]
        if code & 7 == 5:  # a jump
            assert i + 1 + max(if_true, if_false) < length
    assert program[-8:] == b"\x06\x00\x00\x00\x00\x00\xff\x7f"  # what is not on the list is allowed


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no list of this machine's system calls")
def test_every_call_on_the_list_is_refused(box: Sandbox) -> None:
    calls = MACHINES[platform.machine()][1]
    refused = {name: number for name, number in calls.items() if name not in ("socket", "clone", "clone3")}
    code = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {refused}.items():
    ctypes.set_errno(0)
    result = libc.syscall(number, -1, -1, -1, -1, -1)
    if result != -1 or ctypes.get_errno() != errno.EPERM:
        print(name, result, ctypes.get_errno())
"""
    assert box.run(code).stdout == ""


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="the sandbox's memory must be positive, got 0"):
        Limits(memory=0)
