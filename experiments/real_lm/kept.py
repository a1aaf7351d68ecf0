"""Keeps the finished runs of a training comparison as one small archive, so that another machine can go on with it."""

import tarfile
from pathlib import Path

from ibtpo.storage.run_folder import RunFolder

FILES = ("config.yaml", "env.json", "eval.json", "evals.jsonl", "metrics.jsonl")  # of a run folder: numbers, no texts


def pack(folder: Path, archive: Path) -> int:
    """Writes the plan, the arms, and the finished runs of a comparison to an archive.

    folder: the comparison's folder.
    archive: a file that ends in .tar.xz; it is written over.

    Returns how many runs are in it, short ones that choose settings among them.
    """
    found = (path.parent for path in sorted(folder.rglob("eval.json")))
    runs = [run for run in found if "after" in RunFolder(run).read_eval()]
    paths = [folder / "plan.json", *sorted((folder / "arms").glob("*.yaml"))]
    paths += [run / name for run in runs for name in FILES if (run / name).exists()]

    def undated(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz") as tar:
        for path in paths:
            tar.add(path, path.relative_to(folder), filter=undated)
    return len(runs)


def unpack(archive: Path, folder: Path) -> None:
    """Brings back what `pack` kept, unless the comparison was begun here already."""
    if archive.exists() and not (folder / "plan.json").exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
