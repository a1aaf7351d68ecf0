"""An image for tests of containers, made of this machine's Python: nothing is downloaded."""

import fcntl
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

_LEFT_OUT = re.compile(r"/(site-packages|dist-packages|test|tests|config-.*|__pycache__|idlelib|ensurepip|tkinter)$")


def python_image(engine: str) -> str:
    """The name of an image with Python, `env` and `echo`, which is made if there is none yet.

    engine: "podman" or "docker".

    Raises `subprocess.CalledProcessError` if the engine does not work.
    """
    name = f"localhost/ibtpo-sandbox-tests:{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    folder = Path(tempfile.gettempdir())
    with open(folder / f"ibtpo-image-{engine}-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if subprocess.run([engine, "image", "inspect", name], capture_output=True, check=False).returncode:
            with tempfile.NamedTemporaryFile(suffix=".tar") as file:
                _pack(file.name)
                subprocess.run([engine, "import", file.name, name], capture_output=True, check=True)
    return name


def _pack(path: str) -> None:
    """Writes the files of the image into a tar archive."""
    python, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    programs = [python, Path("/usr/bin/env"), Path("/bin/echo")]
    needed = set()
    for file in (*programs, *library.glob("lib-dynload/*.so")):
        text = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        needed |= set(re.findall(r"(/\S+) \(0x", text))
    with tarfile.open(path, "w", dereference=True) as archive:
        for file in (*programs, *sorted(needed)):
            archive.add(file)
        archive.add(library, filter=lambda member: None if _LEFT_OUT.search(member.name) else member)
        link = tarfile.TarInfo("usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(python)
        if str(python) != "/usr/bin/python3":
            archive.addfile(link)
