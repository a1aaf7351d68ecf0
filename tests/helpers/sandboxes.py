"""Sandboxes for tests: as root and as any other user starts them, and with one part of the protection taken away."""

import atexit
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ibtpo import sandbox
from ibtpo.errors import DependencyError
from ibtpo.sandbox import syscalls

PYTHON = "/usr/bin/python3"


def needs_sandbox() -> None:
    """Skips the test where code cannot be isolated, and says why."""
    try:
        sandbox.require()
    except DependencyError as error:
        pytest.skip(str(error))


def as_any_user(patch: pytest.MonkeyPatch) -> None:
    """Has sandboxes be started by a user without privileges, and where the tests run as root, by nobody.

    Python is the system's then, since nobody may not be able to read this one.
    """
    if os.geteuid() != 0:
        return
    if not os.path.exists(PYTHON):
        pytest.skip(f"no {PYTHON}, which another user than root could start")
    popen = subprocess.Popen
    use_driver(patch, sandbox._DRIVER.read_text())
    patch.setattr(sandbox, "_is_root", lambda: False)
    patch.setattr(
        sandbox, "sys", SimpleNamespace(executable=PYTHON, prefix="/usr", base_prefix="/usr", platform="linux")
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
    patch.setattr(sandbox, "_DRIVER", folder / "driver.py")


def without_calls(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Takes system calls off the list of those that are refused."""
    machine = platform.machine()
    arch, calls = syscalls.MACHINES[machine]
    left = {name: number for name, number in calls.items() if name not in names}
    patch.setitem(syscalls.MACHINES, machine, (arch, left))


def with_options(patch: pytest.MonkeyPatch, change: Callable[[list[str]], Iterable[str]]) -> None:
    """Changes bubblewrap's options, and drops the check that would notice."""
    arguments = sandbox._arguments
    patch.setattr(sandbox, "_arguments", lambda *given: iter(list(change(list(arguments(*given))))))
    patch.setattr(sandbox, "_check", lambda *given: None)


def without_options(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Drops options of bubblewrap that take no argument."""
    with_options(patch, lambda options: [option for option in options if option not in names])
