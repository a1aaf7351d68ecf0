"""The programs that can isolate untrusted code, and the command line by which each starts the driver.

`LAUNCHERS` has them in the order in which they are tried. What a program promises is not believed: before any code
runs, the driver reports from inside what holds, and `Sandbox` refuses a launcher of which that is less than it must be.
"""

import itertools
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DependencyError
from .limits import Limits

VARIABLE = "IBTPO_SANDBOX"  # names the only launcher that may be used
IMAGE_VARIABLE = "IBTPO_SANDBOX_IMAGE"  # names the image of containers

_DRIVER = Path(__file__).with_name("driver.py")
_NOBODY = "65534"
_FIRST_UID = 1 << 30  # from here on user ids that nobody has; a sandbox started by root takes one of its own
_SUBORDINATE_UIDS = 65_000  # so many can be had in a container of a user without privileges
_SHARED = ("/usr", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime", "/etc/alternatives")
_UNDER_ROOT = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",  # sets in the same order each time: the same answer gets the same reward
    "PYTHONDONTWRITEBYTECODE": "1",
}
_sandboxes = itertools.count()


@dataclass(frozen=True, slots=True)
class Launch:
    """How a sandbox is started and ended.

    command: the command line that runs the driver in it.
    uid: the user id that the driver has to take; None if the command has given it one.
    environment: that of the command; None for this process's own. Bubblewrap's and nsjail's can be read in /proc.
    stop: the command that ends the sandbox; None if it ends with the process of `command`.
    cause: the line of its standard error that says why it could not be started, counted as an index of a list.
    """

    command: list[str]
    uid: int | None = None
    environment: dict[str, str] | None = None
    stop: list[str] | None = None
    cause: int = -1


def present() -> dict[str, str]:
    """The launchers that may be used here, best first, and the path of each.

    Raises `DependencyError` if there is none, `ConfigError` if `$IBTPO_SANDBOX` names none.
    """
    if sys.platform != "linux":
        raise DependencyError(f"untrusted code can be isolated on Linux only, not on {sys.platform}")
    wanted = os.environ.get(VARIABLE)
    if wanted and wanted not in LAUNCHERS:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(LAUNCHERS)}, got {wanted!r}")
    found = {name: shutil.which(name) for name in ([wanted] if wanted else LAUNCHERS)}
    paths = {name: path for name, path in found.items() if path is not None}
    if not paths:
        lacks = f"{VARIABLE} asks for {wanted}, which is not installed" if wanted else "none is installed"
        raise DependencyError(
            f"untrusted code runs in a sandbox only, and {lacks}: install bubblewrap (apt-get install bubblewrap), "
            "else nsjail, podman or docker"
        )
    return paths


def image() -> str:
    """The image of containers: `$IBTPO_SANDBOX_IMAGE`, or else Python's official one of this version."""
    official = f"docker.io/library/python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    return os.environ.get(IMAGE_VARIABLE) or official


def _is_root() -> bool:
    """Whether this process is the system's own root, not that of a container with user ids of its own."""
    if os.geteuid() != 0:
        return False
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", str((1 << 32) - 1)]


def _own_uid() -> int:
    """A user id that no one else has, so that the sandbox's processes are counted alone."""
    return _FIRST_UID + (os.getpid() % (1 << 14) << 15) + next(_sandboxes) % (1 << 15)


def _bubblewrap(program: str, limits: Limits) -> Launch:
    """Started by root it makes no user namespace, in which the code would still be root to the kernel and its processes
    not counted; the driver takes a user id of its own instead.
    """
    uid = _own_uid() if _is_root() else None
    return Launch([program, *_bubblewrap_options(limits, uid), *_python(sys.executable)], uid, environment={})


def _bubblewrap_options(limits: Limits, uid: int | None) -> Iterator[str]:
    yield from ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup")
    yield from ("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv")
    if uid is None:
        yield from ("--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY)
    else:
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    for name, value in _ENVIRONMENT.items():
        yield from ("--setenv", name, value)
    yield from ("--perms", "1777", "--size", str(limits.scratch), "--tmpfs", "/tmp")
    paths = _shared_paths()
    for folder in dict.fromkeys(str(parent) for path in paths for parent in reversed(Path(path).parents[:-1])):
        if folder != "/tmp":
            yield from ("--perms", "0755", "--dir", folder)  # made by bubblewrap itself, only its owner could enter
    for path in paths:
        yield from ("--ro-bind-try", path, path)
    for target, path in _links():
        yield from ("--symlink", target, path)
    yield from ("--ro-bind", str(_DRIVER), "/driver.py", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev")
    yield from ("--remount-ro", "/", "--chdir", "/tmp")  # it sets $PWD to that


def _nsjail(program: str, limits: Limits) -> Launch:
    """Its own limits are switched off: the driver's are tighter, and could not be set above nsjail's."""
    return Launch([program, *_nsjail_options(limits), "--", *_python(sys.executable)], environment={}, cause=0)


def _nsjail_options(limits: Limits) -> Iterator[str]:
    yield from ("--mode", "o", "--quiet", "--time_limit", "0", "--disable_rlimits", "--nice_level", str(os.nice(0)))
    if _is_root():
        uid = str(_own_uid())
        yield "--disable_clone_newuser"
    else:
        uid = _NOBODY
    yield from ("--user", uid, "--group", uid, "--hostname", "sandbox")
    for variable in map("=".join, _ENVIRONMENT.items()):
        yield from ("--env", variable)
    yield from ("--mount", f"none:/tmp:tmpfs:mode=1777,size={limits.scratch}")
    for path in (*_shared_paths(), *(f"/dev/{name}" for name in _DEVICES)):
        if os.path.exists(path):
            yield from ("--bindmount_ro", path)
    links = ((f"/proc/self/fd/{number}", f"/dev/{name}") for number, name in enumerate(("stdin", "stdout", "stderr")))
    for target, path in (*_links(), *links):
        yield from ("--symlink", f"{target}:{path}")
    yield from ("--bindmount_ro", f"{_DRIVER}:/driver.py")


def _podman(program: str, limits: Limits) -> Launch:
    """A user without privileges has few user ids for his containers; they are counted apart from his own."""
    uid = _own_uid() if _is_root() else 1 + (32 * os.getpid() + next(_sandboxes)) % _SUBORDINATE_UIDS
    # Without the first, /run and /var/tmp could be written; proxies may be passed on with their passwords.
    return _container(program, limits, uid, "--read-only-tmpfs=false", "--http-proxy=false", "--no-hosts")


def _docker(program: str, limits: Limits) -> Launch:
    return _container(program, limits, _own_uid())


def _container(program: str, limits: Limits, uid: int, *options: str) -> Launch:
    """The options that Podman and Docker have in common.

    The container outlives the command, but not the driver, which ends when its input does. The driver is the first
    process, so that code in the container cannot stop it.
    """
    name = f"ibtpo-{secrets.token_hex(8)}"
    environment = {**_ENVIRONMENT, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    # Beside one run at its limits: the driver, which holds what the run has printed.
    memory = limits.memory + limits.scratch + 16 * limits.output + (128 << 20)
    command = [
        *(program, "run", "--name", name, "--rm", "--interactive", "--pull", "never", "--log-driver", "none"),
        *("--network", "none", "--ipc", "none", "--cgroupns", "private", "--hostname", "sandbox", "--init=false"),
        *("--user", f"{uid}:{uid}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--memory", str(memory), "--memory-swap", str(memory), "--pids-limit", str(limits.threads + 64)),
        # Limits of the start; higher ones by default could be more than root may set.
        *("--ulimit", f"nofile={limits.files + 1024}", "--ulimit", f"nproc={limits.threads + 64}"),
        *("--read-only", "--tmpfs", f"/tmp:mode=1777,size={limits.scratch}"),
        *("--tmpfs", "/sys:ro,size=4k", "--tmpfs", "/dev/mqueue:ro,size=4k"),  # empty: no hardware, no queues
        *("--mount", f"type=bind,source={_DRIVER},target=/driver.py,readonly", *options),
        *("--entrypoint", "/usr/bin/env", image(), "-i", *map("=".join, environment.items())),
        *_python("python3"),
    ]
    return Launch(command, stop=[program, "kill", name])


def _python(interpreter: str) -> tuple[str, ...]:
    return (interpreter, "-s", "-P", "/driver.py")


def _shared_paths() -> list[str]:
    """What of this machine is seen in a sandbox without an image, read-only: the system's programs, and Python."""
    folders = (f"/{name}" for name in _UNDER_ROOT)
    return list(dict.fromkeys((*_SHARED, sys.base_prefix, sys.prefix, *(f for f in folders if not os.path.islink(f)))))


def _links() -> Iterator[tuple[str, str]]:
    """The symbolic links of this machine's root among such paths: the target, and the path."""
    for path in (f"/{name}" for name in _UNDER_ROOT):
        if os.path.islink(path):
            yield os.readlink(path), path


LAUNCHERS: dict[str, Callable[[str, Limits], Launch]] = {
    "bwrap": _bubblewrap,
    "nsjail": _nsjail,
    "podman": _podman,
    "docker": _docker,
}
