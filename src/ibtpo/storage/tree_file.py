"""Files of trees on disk: `TreeFile` writes one that a stopped command can go on with.

The names of the files that a training run stores step by step are at the end: `step_file` makes them, and `tree_files`
finds them.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import locked, naming, real_path, whole_file
from .._options import todays_names
from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from ..search import Prompt, SearchOptions
    from ..tree import ReasoningTree


def check_same(
    tree: "ReasoningTree",
    prompts: Sequence["Prompt"],
    options: "SearchOptions",
    made_by: dict[str, Any],
    path: Path,
) -> None:
    """Checks that a stored tree is one that this command would grow, too: one file must not mix trees of two kinds.

    tree: the stored tree.
    prompts: the prompts of this command; the tree must be of one of them, with the same token ids.
    options: its search options, which must equal those in the tree's meta, `HOW_REQUESTS_RUN` aside.
    made_by: further entries that the tree's meta must hold, such as model and verifier.
    path: the file, for messages.

    Raises `ConfigError` naming the first difference.
    """
    from ..search import HOW_REQUESTS_RUN  # here, so that the help text of `ibtpo sample` need not load numpy

    prompt = next((p for p in prompts if p.id == tree.id), None)
    advice = f"give the options {path} was started with, or another --output"
    if prompt is None:
        raise ConfigError(f"--resume: {path} holds a tree of {tree.id!r}, which --data and --limit leave out; {advice}")
    if prompt.ids != tree.prompt_ids:
        raise ConfigError(f"--resume: the prompt of {tree.id!r} is not the one in {path}; {advice}")
    now = json.loads(json.dumps({**options.to_json(), **made_by}))
    then = {**todays_names(tree.meta.get("search", {})), **{key: tree.meta.get(key) for key in made_by}}
    for key, value in _flat(now).items():
        if key not in HOW_REQUESTS_RUN and _flat(then).get(key) != value:
            raise ConfigError(f"--resume: {key} is {value!r}, but {_flat(then).get(key)!r} in {path}; {advice}")


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    """A dictionary with the keys of dictionaries in it as `outer.inner`, one level deep."""
    out: dict[str, Any] = {}
    for key, value in nested.items():
        out.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return out


class TreeFile:
    """A file of trees that is written tree by tree, and that a later call can go on with after a kill.

    Trees are added to `part`, the file's name with `.partial`, as they are finished. `finish` writes them to `path` in
    the order of the prompts and removes `part`, so `path` is never half written. The order of calls is `open`, read to
    its end, then `append` for each new tree, then `finish`.

    path: the finished file; its trees are compressed if the name ends in `.gz`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = real_path(path).with_name(real_path(path).name + ".partial")
        self._place: dict[str, tuple[int, int]] = {}  # id -> (offset, length) of its line in `part`

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes from writing the file while the block runs. Raises `ConfigError` if one does."""
        with locked(self.part.with_suffix(".lock")) as alone:
            if not alone:
                raise ConfigError(f"{self.path} is being written by another process; wait for its end or stop it first")
            yield

    def open(self, *, resume: bool) -> Iterator["ReasoningTree"]:
        """Starts afresh, or yields the trees that are stored already, one by one.

        This is a generator, and nothing happens before it is read; read it to its end before `append`. A last line that
        was cut off when a command was stopped is removed.

        resume: whether to go on with the trees of `part` or, if there is none, of `path`. Otherwise `part` is emptied.

        Raises `DataError` for a line that holds no tree, and for broken gzip data.
        """
        if not resume:
            with naming(self.part):
                self.part.write_bytes(b"")
        elif not self.part.exists():
            lines: Iterable[bytes] = ()
            if self.path.exists():
                opener: Any = gzip.open if self.path.suffix == ".gz" else open
                try:
                    with opener(self.path, "rb") as f:
                        lines = f.readlines()
                except (EOFError, zlib.error, gzip.BadGzipFile) as e:
                    raise DataError(
                        f"{self.path}: broken gzip data ({e}); copy the file again or start again with --overwrite"
                    ) from e
            with whole_file(self.part) as new:
                new.write_bytes(b"".join(lines))
        yield from self._read()

    def _read(self) -> Iterator["ReasoningTree"]:
        from ..tree import ReasoningTree

        offset = 0
        with self.part.open("r+b") as f:
            for number, line in enumerate(f, 1):
                if not line.endswith(b"\n"):  # the command was stopped while it wrote this line
                    break
                try:
                    tree = ReasoningTree.from_dict(json.loads(line))
                except (ValueError, RecursionError) as e:
                    raise DataError(f"{self.part}:{number}: {e}; mend the line or start again with --overwrite") from e
                self._place[tree.id] = (offset, len(line))
                offset += len(line)
                yield tree
            f.truncate(offset)

    def append(self, tree: "ReasoningTree") -> None:
        """Adds a finished tree to `part`; once this has returned, a kill of the process cannot lose the tree."""
        line = (json.dumps(tree.to_dict(), ensure_ascii=False, allow_nan=False) + "\n").encode()
        with naming(self.part), self.part.open("ab") as f:
            self._place[tree.id] = (f.tell(), len(line))
            f.write(line)

    def finish(self, ids: Sequence[str]) -> None:
        """Writes `path`, whole or not at all, and removes `part`.

        ids: the ids of all trees, in the order the file is to have.
        """
        opener: Any = gzip.open if self.path.suffix == ".gz" else open
        with whole_file(self.path) as new, self.part.open("rb") as source, opener(new, "wb") as target:
            for id in ids:
                offset, length = self._place[id]
                source.seek(offset)
                target.write(source.read(length))
        self.part.unlink()


def step_file(step: int, rank: int | None = None) -> str:
    """The name of the file that holds the trees of a training step.

    step: the optimiser step, from 1.
    rank: the number of the process, where each of several writes its own file; None for a single process.
    """
    return f"step_{step:06d}{'' if rank is None else f'_rank{rank}'}.jsonl.gz"


def tree_files(folder: Path) -> tuple[tuple[int, Path], ...]:
    """The files of trees in a folder that have names as `step_file` makes them, compressed or not.

    Returns (step, file) pairs in order of step.
    """
    found = [(re.fullmatch(r"step_(\d+)(_rank\d+)?\.jsonl(\.gz)?", p.name), p) for p in sorted(folder.glob("step_*"))]
    return tuple(sorted((int(m[1]), p) for m, p in found if m))
