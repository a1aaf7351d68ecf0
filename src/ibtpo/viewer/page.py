"""The tree viewer: the trees of a file or a run as one HTML file that opens from disk and asks nothing of any network.

The file begins with the page, its styles and its scripts (from the folder page_files) and the index of the trees. Then
comes one compressed chunk a tree, so that a browser can show the list of trees while it still reads the rest. A
Content-Security-Policy forbids everything but our own styles and scripts, which it names by their hashes.
"""

import base64
import hashlib
import html
import json
import shutil
import tempfile
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from .._files import whole_file
from .._text import visible
from ..errors import ConfigError, DataError
from .data import COLOURS, Source, index_entry, open_source, pack, pack_index, tree_chunk, tree_key
from .token_texts import find_tokenizer, token_texts
from .without_script import NestedLists

__all__ = ["ViewerResult", "default_output", "tree_key", "write_viewer"]

GENERATOR = "ibtpo view"
_MARK = f'<meta name="generator" content="{GENERATOR}">'
SCRIPTS = ("d3-hierarchy.min.js", "data.js", "list.js", "tree.js", "panel.js", "app.js")


@dataclass(frozen=True, slots=True)
class ViewerResult:
    """What `write_viewer` wrote.

    output: the file.
    trees: how many trees it holds.
    bytes: the file's size.
    notes: what was left out, one sentence each.
    remarks: what is shown otherwise than it was trained, and why, one sentence each.
    """

    output: Path
    trees: int
    bytes: int
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def default_output(source: str | Path) -> Path:
    """The file that `write_viewer` writes when it is given no other.

    For a run folder this is `trees.html` in it. For a tree file it is beside it and has its name, with `.html` in place
    of `.jsonl` or `.jsonl.gz`.
    """
    source = Path(source)
    if source.is_dir():
        return source / "trees.html"
    name = source.name
    for ending in (".gz", ".jsonl"):
        name = name.removesuffix(ending)
    return source.with_name(name + ".html")


def write_viewer(
    source: str | Path,
    output: str | Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    title: str | None = None,
    tokenizer: Path | None = None,
    on_tree: Callable[[int], None] | None = None,
) -> ViewerResult:
    """Writes the trees of a tree file or a run folder as one HTML file.

    source: the tree file or the run folder.
    output: the file to write; default `default_output(source)`. A file that is there is replaced only if an earlier
        call wrote it.
    options: `advantage`, `beta`, `lam`, `value`, `confidence`, `weight` and `ratio_prior` to score the trees with, in
        place of those stored in each tree; one that is absent or None stays as stored.
    title: the page's title; default the name of the source.
    tokenizer: the file `tokenizer.json`, or a folder that holds it, to show the texts of tokens with; default that of
        the run's own model, or of the embedded one if it grew the trees.
    on_tree: called after each tree with the number of trees so far.

    Raises `DataError` naming file and line for a wrong tree file (a wrong line of a run folder is left out and noted),
    and `ConfigError` for an output that is not ours to replace, a wrong tokenizer, or a wrong option.
    """
    found = open_source(source)
    output = default_output(source) if output is None else Path(output)
    check_output(output)
    # Reading the trees can take minutes, so a wrong tokenizer is reported before.
    if tokenizer is not None and (given := find_tokenizer(tokenizer, None, None)) and token_texts(given, ()) is None:
        raise ConfigError(f"--tokenizer: {given} cannot be read; is it a tokenizer.json, and `tokenizers` installed?")
    entries: list[dict[str, Any]] = []
    largest = {name: array("d") for name in COLOURS}  # every value in the file: the colour scale fits them all
    static = NestedLists()
    used: set[int] = set()
    model: object = None
    with tempfile.TemporaryFile() as chunks:
        for step, tree in found.trees():
            credit, record = found.scored(tree, options)
            for name in COLOURS:
                largest[name].extend(v for node in record["nodes"] if (v := node[name]) is not None)
            chunk = pack(tree_chunk(tree, step, record, credit))
            chunks.write(f'<script type="application/x-ibtpo" id="t{len(entries)}">{chunk}</script>\n'.encode())
            entries.append(index_entry(tree, step, record))
            static.add(tree, step, record)
            used.update(i for n in tree.nodes[1:] for i in n.step.token_ids)
            model = model or tree.meta.get("model")
            if on_tree:
                on_tree(len(entries))
        if not entries:
            raise DataError("; ".join(found.notes) or f"{found.path} holds no trees")
        columns, shared = pack_index(entries)
        facts = {
            "run": found.is_run,
            "notes": [visible(n) for n in found.notes],
            "remarks": [visible(n) for n in found.remarks],
            "trees": len(entries),
            "shared": shared,
            "scale": {name: _scale(values.tolist(), name) for name, values in largest.items()},
        }
        file = find_tokenizer(tokenizer, found.path if found.is_run else None, model)
        words = token_texts(file, sorted(used)) if file else None
        head = _head(
            visible(title or _name(found)),
            facts,
            pack(columns),
            pack(words),
            static.finish([*found.remarks, *found.notes]),
        )
        with whole_file(output) as part, open(part, "wb") as f:
            f.write(head)
            chunks.seek(0)
            shutil.copyfileobj(chunks, f, 1 << 20)
            f.write(b"</body>\n</html>\n")
        size = output.stat().st_size
    return ViewerResult(output, len(entries), size, tuple(found.notes), tuple(found.remarks))


def check_output(output: Path) -> None:
    """Raises `ConfigError` unless the file can be written and, if it is there, is a viewer's."""
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file")
    if not output.exists():
        return
    with open(output, "rb") as f:
        if _MARK.encode() not in f.read(2048):
            raise ConfigError(f"{output} exists and was not written by {GENERATOR}; name another file with -o")


def _name(source: Source) -> str:
    """The name of the source's file or folder, also where its path is "."."""
    return source.path.resolve().name or str(source.path)


def _scale(values: Sequence[float], name: str) -> list[float]:
    """[low, middle, high] of a colour scale, the same for all trees of the page.

    That of p-hat covers all its values, and at least 0 to 1. The others are symmetric around 0, and one value in fifty
    may lie beyond their ends, so that a few large ones do not make all others pale.
    """
    if name == "p_hat":
        low, high = min(0.0, *values, 1.0), max(0.0, *values, 1.0)
        return [low, (low + high) / 2, high]
    ends = sorted(abs(v) for v in values)
    most = ends[int(0.98 * (len(ends) - 1))] if ends else 0.0
    most = float(f"{most or (ends[-1] if ends else 0) or 1:.2g}")
    return [-most, 0.0, most]


def _head(title: str, facts: dict[str, Any], index: str, words: str, static: str) -> bytes:
    """The beginning of the file: all of the page but the chunks of the trees, and the end tags."""
    page = resources.files(__package__) / "page_files"
    read = {name: (page / name).read_text("utf-8") for name in ("viewer.html", "viewer.css", *SCRIPTS)}
    hashes = {name: _hash(read[name]) for name in ("viewer.css", *SCRIPTS)}
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes[n] for n in SCRIPTS)}; style-src {hashes['viewer.css']}; "
        "base-uri 'none'; form-action 'none'"
    )
    scripts = "\n".join(f"<script>{read[name]}</script>" for name in SCRIPTS)
    licence = (page / "d3-hierarchy.LICENSE").read_text("utf-8").replace("--", "- -")
    parts = {
        "generator": _MARK,
        "policy": html.escape(policy, quote=False),
        "title": html.escape(title),
        "style": read["viewer.css"],
        "facts": json.dumps(facts).replace("<", "\\u003c"),
        "index": index,
        "words": words,
        "static": static,
        "licence": f"<!-- d3-hierarchy, used for the layout:\n{licence}-->",
        "scripts": scripts,
    }
    out = []
    # One pass, so that a %%name%% in a text that is put in stays text. The odd pieces are the names.
    for i, piece in enumerate(read["viewer.html"].split("%%")):
        out.append(parts[piece] if i % 2 else piece)
    return "".join(out).encode("utf-8", "backslashreplace")


def _hash(text: str) -> str:
    """How a Content-Security-Policy names a script or a style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
