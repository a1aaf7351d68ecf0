"""Attempts to get out of the sandbox, each held; and each gets out as soon as what holds it is taken away.

All of it is tried with each launcher that this machine has. The second half shows that an attempt is one. It takes the
way of a user without privileges, in which the code keeps this process's user id; containers know no such way.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import sandboxes
from ibtpo import sandbox
from ibtpo.sandbox import Limits, Sandbox, launchers

# An attempt prints ESCAPED if it succeeds; every other end of it is fine.
FORK = "import os\nif os.fork() == 0: os._exit(0)\nprint('ESCAPED')"
SUBPROCESS = "import subprocess\nprint(subprocess.run(['/bin/echo', 'ESCAPED'], capture_output=True, text=True).stdout)"
EXEC = "import os\nos.execv('/bin/echo', ['echo', 'ESCAPED'])"
FORK_BOMB = """
import os, time
born = 0
try:
    for _ in range(60):
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
        born += 1
except OSError:
    pass
print('ESCAPED' if born > 30 else born)
"""
THREAD_BOMB = """
import threading
threading.stack_size(1 << 16)
stop, begun = threading.Event(), 0
try:
    for _ in range(60):
        threading.Thread(target=stop.wait).start()
        begun += 1
except RuntimeError:
    pass
stop.set()
print('ESCAPED' if begun > 30 else begun)
"""
MEMORY = "import mmap\nx = mmap.mmap(-1, 3 << 30)\nprint('ESCAPED')"
MEMFD = "import os\nos.memfd_create('x')\nprint('ESCAPED')"
SHARED_MEMORY = """
import ctypes
if ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) >= 0:
    print('ESCAPED')
"""
DISK = """
for number in range(64):
    with open(f'/tmp/{number}', 'wb') as file:
        file.write(bytes(1 << 20))
print('ESCAPED')
"""
BIG_FILE = "with open('/tmp/x', 'wb') as file:\n    file.write(bytes(8 << 20))\nprint('ESCAPED')"
OUTPUT = "print('x' * (8 << 20))\nimport sys\nsys.stdout.flush()\nprint('ESCAPED', file=sys.stderr)"
MANY_FILES = "files = [open('/tmp/x', 'w') for _ in range(200)]\nprint('ESCAPED')"
WRITABLE = """
import os, sys
from pathlib import Path
folders = ['/', '/dev', '/dev/shm', '/etc', '/usr/lib', '/proc', '/run', '/var/tmp', sys.prefix, sys.base_prefix]
with open('/proc/self/mounts') as mounts:
    folders += [mount.split()[1] for mount in mounts]
for folder in folders:
    for place in {Path(folder), *Path(folder).parents} - {Path('/tmp')}:
        try:
            (place / 'written').touch()
        except OSError:
            continue
        os.remove(place / 'written')
        print('ESCAPED', place)
"""
NETLINK = "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nprint('ESCAPED')"
USER_NAMESPACE = "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: print('ESCAPED')"
TRACE = """
import ctypes, os
if ctypes.CDLL(None).ptrace(0x4206, os.getppid(), 0, 0) == 0:
    print('ESCAPED')
"""
DRIVER = "import os\nos.listdir(f'/proc/{os.getppid()}/fd')\nopen(f'/proc/{os.getppid()}/mem', 'rb')\nprint('ESCAPED')"
SECRET = """
import glob, os
seen = [os.environ.get('SANDBOX_TEST_SECRET', '')]
for name in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try:
        seen.append(open(name, errors='replace').read())
    except OSError:
        pass
print('ESCAPED' if any('a secret' in text for text in seen) else 'held')
"""
RAISED_LIMIT = "import resource as r\nr.setrlimit(r.RLIMIT_AS, (8 << 30, 8 << 30))\nprint('ESCAPED')"
ROOT = "import os\nos.setuid(0)\nprint('ESCAPED')"
DEVICE = "import os\nos.mknod('/tmp/sda', 0o60666, os.makedev(8, 0))\nprint('ESCAPED')"
MOUNT = "import ctypes\nif ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: print('ESCAPED')"
KERNEL = "open('/proc/sys/kernel/hostname', 'w').write('escaped')\nprint('ESCAPED')"

Patch = pytest.MonkeyPatch
FORKS = ("fork", "vfork", "clone", "clone3", "execve")


def in_driver(patch: Patch, line: str) -> None:
    """Drops a line from the driver."""
    text = launchers._DRIVER.read_text()
    assert line in text
    sandboxes.use_driver(patch, text.replace(line, "pass"))


def nothing(patch: Patch) -> None:
    """Takes nothing away: what holds the attempt is a limit."""


def with_environment(patch: Patch) -> None:
    popen = subprocess.Popen
    patch.setattr(subprocess, "Popen", lambda *given, **named: popen(*given, **{**named, "env": None}))
    with_variable = sandboxes.added("--env", "SANDBOX_TEST_SECRET")
    sandboxes.weaker(
        patch,
        {
            "bwrap": sandboxes.dropped("--clearenv"),
            "nsjail": sandboxes.added("--keep_env"),
            "container": lambda command: with_variable(sandboxes.dropped("-i")(command)),
        },
    )


def writable(patch: Patch) -> None:
    sandboxes.weaker(
        patch,
        {
            "bwrap": sandboxes.writable_root,
            "nsjail": sandboxes.added("--rw"),
            "container": sandboxes.replaced("--ipc", "none", "private"),  # brings /dev/shm
        },
    )


def with_network(patch: Patch) -> None:
    sandboxes.weaker(
        patch,
        {
            "bwrap": sandboxes.dropped("--unshare-net"),
            "nsjail": sandboxes.added("--disable_clone_newnet"),
            "container": sandboxes.replaced("--network", "none", "host"),
        },
    )


def with_processes(patch: Patch) -> None:
    """All processes of this machine are seen, and the code is nobody, who may end those of nobody."""
    nobody = sandboxes.replaced("--user", None, "65534:65534")
    sandboxes.weaker(
        patch,
        {
            "bwrap": sandboxes.dropped("--unshare-pid"),
            "nsjail": sandboxes.added("--disable_clone_newpid", "--disable_proc", "--bindmount", "/proc"),
            "container": lambda command: nobody(sandboxes.added("--pid", "host")(command)),
        },
    )


def share(patch: Patch, folder: Path, *, writable: bool = False) -> None:
    """Mounts a folder of this machine."""
    patch.setattr(launchers, "_SHARED", (*launchers._SHARED, str(folder)))

    def change(command: list[str]) -> list[str]:
        return [word.replace("ro-bind-try", "bind-try").replace("bindmount_ro", "bindmount") for word in command]

    sandboxes.weaker(
        patch,
        {
            "bwrap": change if writable else list,
            "nsjail": change if writable else list,
            "container": sandboxes.added("--volume", f"{folder}:{folder}:{'rw' if writable else 'ro'}"),
        },
    )


# Name -> the attempt, what takes away its hold, and the limits under which it is held and is not.
ATTEMPTS: dict[str, tuple[str, Callable[[Patch], None], Limits, Limits]] = {
    "fork": (FORK, lambda p: sandboxes.without_calls(p, *FORKS), Limits(), Limits()),
    "subprocess": (SUBPROCESS, lambda p: sandboxes.without_calls(p, *FORKS), Limits(), Limits()),
    "exec": (EXEC, lambda p: sandboxes.without_calls(p, "execve"), Limits(), Limits()),
    "thread bomb": (THREAD_BOMB, nothing, Limits(), Limits(threads=200)),
    "memory": (MEMORY, nothing, Limits(), Limits(memory=8 << 30)),
    "memory in a memfd": (MEMFD, lambda p: sandboxes.without_calls(p, "memfd_create"), Limits(), Limits()),
    "memory in a System V segment": (
        SHARED_MEMORY, lambda p: sandboxes.without_calls(p, "shmget"), Limits(), Limits(),
    ),
    "disk": (DISK, nothing, Limits(), Limits(scratch=128 << 20)),
    "big file": (BIG_FILE, nothing, Limits(), Limits(output=16 << 20)),
    "output": (OUTPUT, nothing, Limits(), Limits(output=16 << 20)),
    "many files": (MANY_FILES, nothing, Limits(), Limits(files=400)),
    "a folder other than /tmp": (WRITABLE, writable, Limits(), Limits()),
    "socket of another kind": (NETLINK, lambda p: sandboxes.without_calls(p, "socket"), Limits(), Limits()),
    "user namespace": (USER_NAMESPACE, lambda p: sandboxes.without_calls(p, "unshare"), Limits(), Limits()),
    "trace the driver": (
        TRACE,
        lambda p: (sandboxes.without_calls(p, "ptrace"), in_driver(p, "control(_PR_SET_DUMPABLE, 0)"))[0],
        Limits(),
        Limits(),
    ),
    "read the driver": (DRIVER, lambda p: in_driver(p, "control(_PR_SET_DUMPABLE, 0)"), Limits(), Limits()),
    "read secrets of the environment": (SECRET, with_environment, Limits(), Limits()),
}  # fmt: skip
# What needs no more than that the code is nobody: there is no single thing to take away.
POWERLESS = {
    "raise a limit": RAISED_LIMIT,
    "be root": ROOT,
    "make a device": DEVICE,
    "mount": MOUNT,
    "the kernel": KERNEL,
}


@pytest.fixture(autouse=True)
def _secret(monkeypatch: Patch) -> None:
    monkeypatch.setenv("SANDBOX_TEST_SECRET", "a secret")


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that every user of this machine may read and write."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.fixture(params=sandboxes.WAYS)
def launcher(request: pytest.FixtureRequest, monkeypatch: Patch) -> str:
    """Each way to start a sandbox; where the tests do not run as root, those of any user are the others."""
    if request.param.endswith("as any user") and os.geteuid() != 0:
        pytest.skip("the tests run as such a user")
    return sandboxes.use(monkeypatch, request.param)


@pytest.fixture(params=sandboxes.WEAK_WAYS)
def weak(request: pytest.FixtureRequest, monkeypatch: Patch) -> str:
    """The ways in which the launcher's protection is needed most."""
    return sandboxes.use(monkeypatch, request.param)


def escaped(code: str, limits: Limits | None = None) -> bool:
    with Sandbox(limits, deadline=30) as box:
        run = box.run(code)
    return "ESCAPED" in run.stdout + run.stderr.replace("print('ESCAPED')", "")


@pytest.mark.usefixtures("launcher")
def test_all_attempts_are_held() -> None:
    with Sandbox() as box:
        for name, code in {**{name: a[0] for name, a in ATTEMPTS.items()}, **POWERLESS}.items():
            run = box.run(code)
            assert "ESCAPED" not in run.stdout + run.stderr, name
            assert run.ended in ("ok", "error"), (name, run)


@pytest.mark.usefixtures("weak")
@pytest.mark.parametrize("name", ATTEMPTS)
def test_each_attempt_gets_out_without_what_holds_it(name: str, monkeypatch: Patch) -> None:
    code, take_away, _, limits = ATTEMPTS[name]
    take_away(monkeypatch)
    assert escaped(code, limits)


def marked(name: str) -> list[int]:
    """The processes of this machine that have given themselves this name."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == name:
                found.append(int(comm.parent.name))
        except OSError:
            continue
    return found


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true, for which starting a process or the kernel may take a moment."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.usefixtures("launcher")
def test_a_fork_bomb_is_counted_even_where_processes_are_not_refused(monkeypatch: Patch) -> None:
    sandboxes.without_calls(monkeypatch, *FORKS)
    assert not escaped(FORK_BOMB)
    assert escaped(FORK_BOMB, Limits(threads=200))


SURVIVOR = """
import ctypes, os, time
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 64)
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b'NAME')
        time.sleep(60)
    os._exit(0)
time.sleep(0.5)
print('ESCAPED')
"""


@pytest.mark.usefixtures("launcher")
def test_what_goes_on_in_the_background_ends_with_the_sandbox(monkeypatch: Patch) -> None:
    name = f"sb{os.getpid()}"
    sandboxes.without_calls(monkeypatch, *FORKS)
    with Sandbox() as box:
        assert "ESCAPED" in box.run(SURVIVOR.replace("NAME", name)).stdout
        assert len(marked(name)) == 1
    assert eventually(lambda: not marked(name))


def test_in_the_background_it_would_go_on(monkeypatch: Patch) -> None:
    name = f"sc{os.getpid()}"
    sandboxes.use(monkeypatch, "bwrap as any user")
    sandboxes.without_calls(monkeypatch, *FORKS)
    sandboxes.with_command(monkeypatch, sandboxes.dropped("--die-with-parent"))
    with Sandbox() as box:
        box.run(SURVIVOR.replace("NAME", name))
    time.sleep(0.5)
    left = marked(name)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 1


READ = "print(open('PATH').read())"
LINK = "import os\nos.symlink('PATH', '/tmp/link')\nprint(open('/tmp/link').read())"
LINK_FOLDER = "import os\nos.symlink('/', '/tmp/root')\nprint(open('/tmp/root/PATH').read())"
PROC = "print(open('/proc/1/root/PATH').read())"


@pytest.mark.parametrize("attempt", [READ, LINK, LINK_FOLDER, PROC])
def test_files_outside_are_not_there(attempt: str, launcher: str, outside: Path, monkeypatch: Patch) -> None:
    secret = outside / "secret"
    secret.write_text("ESCAPED")
    code = attempt.replace("PATH", str(secret))
    assert not escaped(code)
    others = ["/etc/shadow", "/root/.bashrc", f"{Path.home()}/.ssh", __file__, "/sys/kernel", "/dev/sda"]
    if launcher not in sandboxes.CONTAINERS:  # they have one of their own
        others.append("/etc/passwd")
    assert not escaped(f"import os\nif any(map(os.path.exists, {others})): print('ESCAPED')")
    if attempt != PROC:
        share(monkeypatch, outside)
        assert escaped(code)


@pytest.mark.usefixtures("weak")
def test_files_that_are_shared_cannot_be_written(outside: Path, monkeypatch: Patch) -> None:
    data = outside / "data"
    code = f"with open({str(data)!r}, 'w') as file: file.write('written')\nprint('ESCAPED')"
    with monkeypatch.context() as patch:
        share(patch, outside)
        assert not escaped(code)
    assert not data.exists()
    share(monkeypatch, outside, writable=True)
    assert escaped(code)
    assert data.read_text() == "written"


@pytest.mark.usefixtures("launcher")
def test_no_network(monkeypatch: Patch) -> None:
    """Two things hold it, and each does so alone: the filter and the namespace."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)\nprint('ESCAPED')"
        assert not escaped(code)
        with monkeypatch.context() as patch:
            with_network(patch)
            assert not escaped(code)
        sandboxes.without_calls(monkeypatch, "socket")
        assert not escaped(code)
        with_network(monkeypatch)
        assert escaped(code)


@pytest.mark.usefixtures("launcher")
def test_no_sockets_without_a_file(monkeypatch: Patch) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        name = f"\0sandbox-test-{os.getpid()}"
        server.bind(name)
        server.listen()
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})\nprint('ESCAPED')"
        assert not escaped(code)
        with_network(monkeypatch)
        assert escaped(code)


@pytest.mark.usefixtures("launcher")
def test_no_signals_to_processes_outside() -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        code = f"import os\nos.kill({victim.pid}, 9)\nprint('ESCAPED')"
        assert not escaped(code)
        assert not escaped("import os, signal\nsignal.signal(15, signal.SIG_IGN)\nos.kill(-1, 15)\nos.killpg(0, 15)")
        assert victim.poll() is None
        victim.kill()


@pytest.mark.usefixtures("weak")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_signals_would_arrive(monkeypatch: Patch) -> None:
    with_processes(monkeypatch)
    with subprocess.Popen(["setpriv", "--reuid", "65534", "sleep", "60"]) as victim:
        assert escaped(f"import os\nos.kill({victim.pid}, 9)\nprint('ESCAPED')")
        assert victim.wait() == -signal.SIGKILL


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
        "import atexit\natexit.register(lambda: [None for _ in iter(int, 1)])",
        "class Slow:\n    def __del__(self):\n        while True: pass\nx = Slow()\ndel x",
        "input()\ninput()",
    ],
)
def test_a_run_that_does_not_end_is_ended(code: str) -> None:
    with Sandbox(Limits(seconds=1, patience=3), deadline=30) as box:
        ended = box.run(code, stdin="x\n").ended
        assert ended in (("error",) if "input" in code else ("timeout", "SIGKILL"))
        assert box.run("print(1)").stdout == "1\n"


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_who_ends_the_driver_ends_his_own_runs(launcher: str, signal_name: str) -> None:
    code = f"import os, signal\nos.kill(os.getppid(), signal.{signal_name})\nprint('ESCAPED')"
    with Sandbox(deadline=2 if launcher == "bwrap" else 30) as box:
        run = box.run(code)
        if launcher == "bwrap":
            assert (run.ended, run.stdout) == ({"SIGKILL": "SIGKILL", "SIGSTOP": "timeout"}[signal_name], "")
            assert box.run("print(1)").ended in ("SIGKILL", "timeout")
        else:  # there the driver is the first process of its namespace, which nobody inside can end or stop
            assert (run.ended, run.stdout) == ("ok", "ESCAPED\n")
            assert box.run("print(1)").stdout == "1\n"


@pytest.mark.parametrize("program", launchers.LAUNCHERS)
def test_the_sandbox_dies_with_the_process_that_started_it(program: str, monkeypatch: Patch) -> None:
    sandboxes.use(monkeypatch, program)
    name = f"sd{os.getpid()}"
    code = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b{name!r})\ntime.sleep(60)"
    host = f"from ibtpo.sandbox import Limits, Sandbox\nSandbox(Limits(patience=60)).run({code!r})"
    with subprocess.Popen([sys.executable, "-c", host]) as process:
        assert eventually(lambda: len(marked(name)) == 1)
        process.kill()
    assert eventually(lambda: not marked(name))


@pytest.mark.parametrize("engine", sandboxes.CONTAINERS)
def test_a_container_is_ended_even_if_its_driver_does_not_end(engine: str, monkeypatch: Patch) -> None:
    name = f"se{os.getpid()}"
    sandboxes.use(monkeypatch, engine)
    ends = "    main()\n"
    text = launchers._DRIVER.read_text()
    assert text.endswith(ends)
    mark = f"{ends}    import time\n    ctypes.CDLL(None).prctl(15, b{name!r})\n    time.sleep(60)\n"
    sandboxes.use_driver(monkeypatch, text.removesuffix(ends) + mark)
    monkeypatch.setattr(sandbox, "_STOP_TIMEOUT", 1)
    with Sandbox() as box:
        assert box.run("print(1)").stdout == "1\n"
        assert box._process.stdin is not None
        box._process.stdin.close()
        assert eventually(lambda: len(marked(name)) == 1)
    assert not marked(name)
