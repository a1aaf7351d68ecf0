"""Sandboxes for tests: by each launcher, as root and as any other user starts them, and with less protection."""

import atexit
import dataclasses
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.images import python_image
from ibtpo import sandbox
from ibtpo.errors import DependencyError
from ibtpo.sandbox import launchers, syscalls

PYTHON = "/usr/bin/python3"
CONTAINERS = ("podman", "docker")
# By whom sandboxes are started: root can start them as himself, and bubblewrap's and nsjail's as nobody.
WAYS = ["bwrap", "bwrap as any user", "nsjail", "nsjail as any user", *CONTAINERS]
# Of these the code has no more rights than the user of the tests, so that every protection is seen to be needed.
WEAK_WAYS = ["bwrap as any user", "nsjail as any user", *CONTAINERS]

Change = Callable[[list[str]], Sequence[str]]


def needs_sandbox() -> None:
    """Skips the test where code cannot be isolated, and says why."""
    try:
        sandbox.require()
    except DependencyError as error:
        pytest.skip(str(error))


def use(patch: pytest.MonkeyPatch, way: str) -> str:
    """Has sandboxes be started in one of `WAYS` only, and gives the launcher's name. Skips the test where it cannot."""
    launcher = way.split()[0]
    reason = _lacks(launcher)
    if reason:
        pytest.skip(reason)
    patch.setenv(launchers.VARIABLE, launcher)
    if launcher in CONTAINERS:
        patch.setenv(launchers.IMAGE_VARIABLE, python_image(launcher))
    if way.endswith("as any user"):
        as_any_user(patch)
    return launcher


@functools.cache
def _lacks(launcher: str) -> str:
    """Why a launcher cannot be tested here; empty if it can."""
    if shutil.which(launcher) is None:
        return f"{launcher} is not installed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(launchers.VARIABLE, launcher)
        try:
            if launcher in CONTAINERS:
                patch.setenv(launchers.IMAGE_VARIABLE, python_image(launcher))
            sandbox.require()
        except subprocess.CalledProcessError as error:
            return f"{launcher} does not work here: {error.stderr.decode().strip()}"
        except DependencyError as error:
            return str(error)
    return ""


def as_any_user(patch: pytest.MonkeyPatch) -> None:
    """Has sandboxes be started by a user without privileges, and where the tests run as root, by nobody.

    Python is the system's then, since nobody may not be able to read this one.
    """
    if os.geteuid() != 0:
        return
    if not os.path.exists(PYTHON):
        pytest.skip(f"no {PYTHON}, which another user than root could start")
    popen = subprocess.Popen
    use_driver(patch, launchers._DRIVER.read_text())
    patch.setattr(launchers, "_is_root", lambda: False)
    patch.setattr(
        launchers, "sys", SimpleNamespace(executable=PYTHON, prefix="/usr", base_prefix="/usr", platform="linux")
    )
    patch.setattr(
        sandbox.subprocess,
        "Popen",
        lambda *given, **named: popen(*given, **named, user=65534, group=65534, extra_groups=[]),
    )


def use_driver(patch: pytest.MonkeyPatch, text: str) -> None:
    """Gives sandboxes another driver, at a place where every user can read it."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    (folder / "driver.py").write_text(text)
    patch.setattr(launchers, "_DRIVER", folder / "driver.py")


def with_command(patch: pytest.MonkeyPatch, change: Change) -> None:
    """Changes the command lines that start sandboxes."""

    def changed(launcher: str) -> Callable[..., launchers.Launch]:
        start = launchers.LAUNCHERS[launcher]

        def launch(*given: object) -> launchers.Launch:
            usual = start(*given)
            return dataclasses.replace(usual, command=list(change(usual.command)))

        return launch

    for launcher in launchers.LAUNCHERS:
        patch.setitem(launchers.LAUNCHERS, launcher, changed(launcher))


def unchecked(patch: pytest.MonkeyPatch) -> None:
    """Drops the check that would refuse a weaker sandbox."""
    patch.setattr(sandbox, "_check", lambda *given: None)


def dropped(*options: str) -> Change:
    """Takes words off the command line."""
    return lambda command: [word for word in command if word not in options]


def added(*options: str) -> Change:
    """Puts options before the others: after the program's name, and the verb of a container engine."""

    def change(command: list[str]) -> list[str]:
        start = 2 if command[1] == "run" else 1
        return [*command[:start], *options, *command[start:]]

    return change


def replaced(option: str, old: str | None, new: str) -> Change:
    """Gives an option another value; None: whatever the old value is."""

    def change(command: list[str]) -> list[str]:
        before = [None, *command]
        return [
            new if last == option and old in (None, word) else word for last, word in zip(before, command, strict=False)
        ]

    return change


def writable_root(command: list[str]) -> list[str]:
    """Takes `--remount-ro` off bubblewrap's command line, with its value."""
    before = ["", *command]
    return [word for last, word in zip(before, command, strict=False) if "--remount-ro" not in (last, word)]


def weaker(patch: pytest.MonkeyPatch, changes: dict[str, Change]) -> None:
    """Takes away what the launcher in use protects by, and the check that would notice.

    changes: launcher -> how its command line is changed; "container" for both engines.
    """
    launcher = os.environ[launchers.VARIABLE]
    with_command(patch, changes["container" if launcher in CONTAINERS else launcher])
    unchecked(patch)


def without_calls(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Takes system calls off the list of those that are refused; container engines have a list of their own."""
    machine = platform.machine()
    arch, calls = syscalls.MACHINES[machine]
    left = {name: number for name, number in calls.items() if name not in names}
    patch.setitem(syscalls.MACHINES, machine, (arch, left))
    if os.environ[launchers.VARIABLE] in CONTAINERS:
        with_command(patch, added("--security-opt", "seccomp=unconfined"))
