"""A run in progress as two pages that are made anew when its files have grown: its report and its trees.

Only sizes and times of files are asked for, so that the folder may be on a remote disk. What is half written when it is
read is left out and read the next time; where a file cannot be read at all, the page stays and says so.
"""

import os
import secrets
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import IBTPOError
from ..storage.metrics_log import MetricsLog
from ..storage.read_run import Run, read_run, stored_trees
from ..storage.run_folder import RunFolder
from ..storage.tree_file import tree_files
from ..viewer.page import write_viewer
from .gallery import Gallery, gallery
from .pages import LIVE_POLICY, content_hash, page_text
from .run import Files, report_page

TREES, DATA = "trees.html", "report_data"  # the addresses of the trees and of the CSV files, beside the report
MOST_FILES = 20  # how many of the newest tree files the page of trees holds
SHARE = 0.1  # how much of a core may go into making the report again and again
WATCHED = ("config.yaml", "env.json", "metrics.jsonl", "eval.json", "evals.jsonl")

State = tuple[Any, ...]  # sizes and times of files


class Follower:
    """The pages of a run, made when they are asked for and something has changed.

    folder: the run folder.

    Raises as `read_run` does if it cannot be read now; later, a page says so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = MetricsLog(RunFolder(folder).metrics)
        self._lock = threading.Lock()
        self._boot = secrets.token_hex(4)  # a server that was started again has other versions
        self._made = 0
        self._next = 0.0  # when the report may be made again
        self._state: State = ()
        self._tree_state: State = ()
        self._shown_trees: State | None = None  # the state that `_trees` shows
        self._trees = b""
        self._gallery = Gallery()
        self._broken: list[str] = []
        self._run: Run = read_run(folder, self._log)
        self.files: Files = {}
        self._page = b""
        self.report()

    def report(self) -> tuple[str, bytes]:
        """The report's version and the page."""
        with self._lock:
            state = _state([self.folder / name for name in WATCHED]), _tree_state(self.folder)
            if state != self._state and time.monotonic() >= self._next:
                begin = time.thread_time()
                self._make(*state)
                self._state = state
                self._next = time.monotonic() + (time.thread_time() - begin) / SHARE
            return f"{self._boot}-{self._made}", self._page

    def _make(self, own: State, trees: State) -> None:
        """Reads what has changed and makes the report."""
        problem = ""
        try:
            self._run = run = read_run(self.folder, self._log)
            if trees != self._tree_state:
                self._broken = []
                self._gallery = gallery(stored_trees(run, self._broken), TREES)
                self._tree_state = trees
        except (IBTPOError, OSError) as e:
            run, problem = self._run, f"Not up to date: {e}"
        self._made += 1
        version = f"{self._boot}-{self._made}"
        run = replace(run, notes=[*run.notes, *(f"Left out: {note}" for note in self._broken)])
        page, self.files = report_page(run, self._gallery, TREES, DATA, live=version, problem=problem)
        self._page = page.encode()

    def trees_version(self) -> str:
        """The version of the page of trees, as it would be made now; "" if there is no tree yet."""
        state = _tree_state(self.folder)
        return f"{self._boot}-{hash(state) & 0xFFFFFFFF:x}" if state else ""

    def trees(self) -> tuple[str, bytes]:
        """The version of the page of trees, and the page, which holds the newest files.

        Raises `DataError` where there are no trees.
        """
        with self._lock:
            state, version = _tree_state(self.folder), self.trees_version()
            if state != self._shown_trees or not state:
                self._trees = _following(self._write_trees(), version)
                self._shown_trees = state
            return version, self._trees

    def _write_trees(self) -> str:
        """The tree viewer's page."""
        files = tree_files(self.folder / "trees")
        newest = [path for _, path in files[-MOST_FILES:]]
        title = f"{self.folder.resolve().name}, live"
        if len(newest) < len(files):
            title += f": the newest {len(newest)} of {len(files)} tree files"
        with tempfile.TemporaryDirectory() as place:
            # The viewer takes a whole folder, so it gets one that holds the newest files of this.
            stage = Path(place, "run")
            (stage / "trees").mkdir(parents=True)
            for path in newest:
                os.symlink(path.resolve(), stage / "trees" / path.name)
            if (self.folder / "model").is_dir():  # whose tokenizer shows the texts of tokens
                os.symlink((self.folder / "model").resolve(), stage / "model")
            output = Path(place, TREES)
            write_viewer(stage, output, title=title)
            return output.read_text("utf-8")


def _following(page: str, version: str) -> bytes:
    """The tree viewer's page with a script that looks for newer trees, which its content policy then lets in."""
    script = page_text("live_trees.js")
    head, body, rest = page.partition("<body>")
    end, closed, tail = rest.rpartition("</body>")
    if "script-src " not in head or "; base-uri" not in head or not (body and closed):
        raise RuntimeError("the viewer's page is not what this module expects: it has no place for a script")
    head = head.replace("script-src ", f"script-src {content_hash(script)} ", 1)
    head = head.replace("; base-uri", f"; {LIVE_POLICY}; base-uri", 1)
    more = f'<meta name="version" content="{version}">\n<link rel="icon" href="data:,">\n'
    head = head.replace("<title>", f"{more}<title>", 1)
    return f"{head}{body}{end}<script>{script}</script>\n{closed}{tail}".encode()


def _state(paths: list[Path]) -> State:
    """The sizes and times of files; None for one that is not there."""
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            s = path.stat()
            found.append((s.st_size, s.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


def _tree_state(folder: Path) -> State:
    """What tree files there are, and the sizes and times of the newest, which may still be being copied."""
    paths = [path for _, path in tree_files(folder / "trees")]
    return (*(path.name for path in paths), *_state(paths[-MOST_FILES:]))
