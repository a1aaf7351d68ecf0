"""What a run gives back, what is shown of it, and refusals where code cannot be isolated."""

import platform
import sys
from types import SimpleNamespace

import pytest

from helpers import sandboxes
from ibtpo import sandbox
from ibtpo.errors import ConfigError, DependencyError
from ibtpo.sandbox import NOTHING, Limits, Sandbox
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


def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DependencyError, match=r"apt-get install bubblewrap"):
        Sandbox()


def test_elsewhere_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "sys", SimpleNamespace(platform="darwin", executable=sys.executable))
    with pytest.raises(DependencyError, match="on Linux only, not on darwin"):
        Sandbox()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--unshare-net", "the net namespace of this process"),
        ("--unshare-ipc", "the ipc namespace of this process"),
        ("--unshare-uts", "--hostname requires --unshare-uts"),
        ("--unshare-cgroup", "the cgroup namespace of this process"),
        ("--unshare-pid", "the pid namespace of this process"),
    ],
)
def test_less_isolation_than_promised_is_refused(option: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sandboxes.needs_sandbox()
    arguments = sandbox._arguments
    monkeypatch.setattr(sandbox, "_arguments", lambda *given: (o for o in arguments(*given) if o != option))
    with pytest.raises(DependencyError, match=reason):
        Sandbox()


def test_a_system_that_forbids_namespaces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sandboxes.needs_sandbox()
    monkeypatch.setattr(sandbox, "_arguments", lambda *given: ("--no-such-option",))
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
