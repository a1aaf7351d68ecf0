"""The tree viewer: trees of files and runs as one HTML file that opens from disk and asks nothing of any network.

The file begins with the page, its styles and its scripts (from the folder page_files) and the index of the trees. Then
come the trees in compressed chunks, so that a browser can show the list of trees while it still reads the rest. A
Content-Security-Policy forbids everything but our own styles and scripts, which it names by their hashes.
"""

import base64
import hashlib
import html
import json
import re
import shutil
import tempfile
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from .._files import whole_file
from .._text import visible
from ..errors import ConfigError, DataError
from .data import COLOURS, index_entry, pack, pack_index, to_json, tree_chunk, tree_key
from .greeting import first_link, greeting
from .sources import Source, open_sources
from .token_texts import find_tokenizer, token_texts
from .without_script import NestedLists

__all__ = ["ViewerResult", "default_output", "tree_key", "write_viewer"]

GENERATOR = "ibtpo view"
_MARK = f'<meta name="generator" content="{GENERATOR}">'
SCRIPTS = (
    "d3-hierarchy.min.js", "data.js", "list.js", "canvas.js", "tree.js", "panel.js", "markdown.js",
    "reader.js", "pairs.js", "app.js",
)  # fmt: skip
CHUNK = 16_000  # characters of JSON: small trees share a chunk, since a browser needs its time for each, too
MARKDOWN, MATHEMATICS = "marked.umd.js", "temml.min.js"
_LATEX = re.compile(r"\$|\\[(\[A-Za-z]")  # what a text holds that may be LaTeX


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


def default_output(source: str | Path | Sequence[str | Path]) -> Path:
    """The file that `write_viewer` writes when it is given no other.

    For a folder this is `trees.html` in it. For a tree file it is beside it and has its name, with `.html` in place of
    `.jsonl` or `.jsonl.gz`. For several sources it is `compared.html` in the working directory.
    """
    sources = _listed(source)
    if len(sources) > 1:
        return Path("compared.html")
    (path,) = sources
    if path.is_dir():
        return path / "trees.html"
    name = path.name
    for ending in (".gz", ".jsonl"):
        name = name.removesuffix(ending)
    return path.with_name(name + ".html")


def write_viewer(
    source: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    title: str | None = None,
    tokenizer: Path | None = None,
    on_tree: Callable[[int], None] | None = None,
) -> ViewerResult:
    """Writes the trees of a tree file, a run folder or a diagnosis, or of several of these, as one HTML file.

    source: what `open_sources` takes: a path, or several to lay side by side.
    output: the file to write; default `default_output(source)`. A file that is there is replaced only if an earlier
        call wrote it.
    options: `advantage`, `beta`, `lam`, `value`, `confidence`, `weight` and `ratio_prior` to score the trees with, in
        place of those stored in each tree; one that is absent or None stays as stored.
    title: the page's title; default the names of the sources.
    tokenizer: the file `tokenizer.json`, or a folder that holds it, to show the texts of tokens with; default that of
        the run's own model, or of the embedded one if it grew the trees.
    on_tree: called after each tree with the number of trees so far.

    Raises `DataError` naming file and line for a wrong tree file (a wrong line in a folder is left out and noted),
    and `ConfigError` for an output that is not ours to replace, a wrong tokenizer, or a wrong option.
    """
    paths = _listed(source)
    sets = open_sources(paths)
    output = default_output(paths) if output is None else Path(output)
    check_output(output)
    # Reading the trees can take minutes, so a wrong tokenizer is reported before.
    if tokenizer is not None and (given := find_tokenizer(tokenizer, None, None)) and token_texts(given, ()) is None:
        raise ConfigError(f"--tokenizer: {given} cannot be read; is it a tokenizer.json, and `tokenizers` installed?")
    entries: list[dict[str, Any]] = []
    largest = {name: array("d") for name in COLOURS}  # every value in the file: the colour scale fits them all
    static = NestedLists()
    used: set[int] = set()
    models: list[object] = [None] * len(sets)
    libraries = [MARKDOWN]
    lines: list[str] = []  # the trees of the next chunk
    with tempfile.TemporaryFile() as chunks:
        for place, step, tree in ((i, *found) for i, one in enumerate(sets) for found in one.trees()):
            credit, record = sets[place].scored(tree, options)
            for name in COLOURS:
                largest[name].extend(v for node in record["nodes"] if (v := node[name]) is not None)
            lines.append(to_json(tree_chunk(tree, step, record, credit)))
            entries.append(index_entry(tree, place, step, record))
            static.add(tree, step, record, visible(sets[place].label, "") if len(sets) > 1 else None)
            used.update(i for n in tree.nodes[1:] for i in n.step.token_ids)
            if len(libraries) == 1 and any(_LATEX.search(n.step.text) for n in tree.nodes[1:]):
                libraries.append(MATHEMATICS)  # a quarter of the page's own size, so only where it is needed
            models[place] = models[place] or tree.meta.get("model")
            if sum(map(len, lines)) >= CHUNK:
                chunks.write(_chunk(len(entries), lines))
                lines = []
            if on_tree:
                on_tree(len(entries))
        chunks.write(_chunk(len(entries), lines))
        notes = [note for s in sets for note in s.notes]
        remarks = [remark for s in sets for remark in s.remarks]
        if not entries:
            raise DataError("; ".join(notes) or f"{paths[0]} holds no trees")
        told = "".join(f"<p>{html.escape(visible(line))}</p>\n" for line in greeting(sets, entries))
        if begin := first_link(sets, entries):
            address, words = begin
            told += f'<p><a href="#{html.escape(address)}">Begin with {words}</a></p>\n'
        columns, shared = pack_index(entries)
        facts = {
            "run": any(s.is_run for s in sets),
            "sets": [visible(s.label, "") for s in sets],
            "notes": [visible(n) for n in notes],
            "remarks": [visible(n) for n in remarks],
            "trees": len(entries),
            "shared": shared,
            "scale": {name: _scale(values.tolist(), name) for name, values in largest.items()},
        }
        head = _head(
            visible(title or " · ".join(dict.fromkeys(p.resolve().name or str(p) for p in paths))),
            facts,
            pack(to_json(columns)),
            pack(to_json(_words(sets, models, tokenizer, sorted(used)))),
            told,
            libraries,
            static.finish([*remarks, *notes]),
        )
        with whole_file(output) as part, open(part, "wb") as f:
            f.write(head)
            chunks.seek(0)
            shutil.copyfileobj(chunks, f, 1 << 20)
            f.write(b"</body>\n</html>\n")
        size = output.stat().st_size
    return ViewerResult(output, len(entries), size, tuple(notes), tuple(remarks))


def _listed(source: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(source)] if isinstance(source, str | Path) else [Path(p) for p in source]


def _words(
    sets: Sequence[Source], models: Sequence[object], tokenizer: Path | None, ids: Sequence[int]
) -> dict[int, str] | None:
    """The texts of tokens by their ids; None where no tokenizer is known, or where the sets have different ones.

    sets: the sets of the page.
    models: what the trees of each call their model.
    tokenizer: the one the user named, if any.
    ids: the tokens of all trees.
    """
    files = [
        find_tokenizer(tokenizer, s.path if s.is_run else None, model) for s, model in zip(sets, models, strict=True)
    ]
    if not (first := files[0]) or None in files or len({f.read_bytes() for f in files if f}) > 1:
        return None
    return token_texts(first, ids)


def _chunk(end: int, lines: Sequence[str]) -> bytes:
    """Trees as a chunk, which is named by the place of the first of them; nothing if there are none.

    end: the place after the last tree.
    lines: each tree as JSON.
    """
    if not lines:
        return b""
    packed = pack("\n".join(lines))
    return f'<script type="application/x-ibtpo" id="t{end - len(lines)}">{packed}</script>\n'.encode()


def check_output(output: Path) -> None:
    """Raises `ConfigError` unless the file can be written and, if it is there, is a viewer's."""
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file")
    if not output.exists():
        return
    with open(output, "rb") as f:
        if _MARK.encode() not in f.read(2048):
            raise ConfigError(f"{output} exists and was not written by {GENERATOR}; name another file with -o")


def _scale(values: Sequence[float], name: str) -> list[float]:
    """[low, middle, high] of a colour scale, the same for all trees of the page.

    That of p-hat covers all its values, and at least 0 to 1. Advantages are told apart by their sign, so theirs is
    symmetric around 0; IB-Scores are compared with each other and mostly below 0, so the middle of theirs is the
    median. Of these two, one value in fifty may lie beyond an end, so that a few large ones do not make all others
    pale.
    """
    if name == "p_hat":
        low, high = min(0.0, *values, 1.0), max(0.0, *values, 1.0)
        return [low, (low + high) / 2, high]
    if name == "ib_score" and values:
        ordered = sorted(values)
        low, middle, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.02, 0.5, 0.98))
        least = 1e-3 * max(1.0, abs(middle))  # where all are alike, the scale still has two sides
        return [min(low, middle - least), middle, max(high, middle + least)]
    ends = sorted(abs(v) for v in values)
    most = ends[int(0.98 * (len(ends) - 1))] if ends else 0.0
    most = float(f"{most or (ends[-1] if ends else 0) or 1:.2g}")
    return [-most, 0.0, most]


def _head(
    title: str, facts: dict[str, Any], index: str, words: str, told: str, libraries: Sequence[str], static: str
) -> bytes:
    """The beginning of the file: all of the page but the chunks of the trees, and the end tags."""
    page = resources.files(__package__) / "page_files"
    read = {name: (page / name).read_text("utf-8") for name in ("viewer.html", "viewer.css", *SCRIPTS, *libraries)}
    hashes = {name: _hash(read[name]) for name in ("viewer.css", *SCRIPTS, *libraries)}
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes[n] for n in (*SCRIPTS, *libraries))}; "
        f"style-src {hashes['viewer.css']}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "generator": _MARK,
        "policy": html.escape(policy, quote=False),
        "title": html.escape(title),
        "style": read["viewer.css"],
        "greeting": told,
        "facts": json.dumps(facts).replace("<", "\\u003c"),
        "index": index,
        "words": words,
        "static": static,
        "licence": "\n".join(_licence(page, name) for name in (SCRIPTS[0], *libraries)),
        # Unpacked and run only when an answer is read; the policy names the hashes of what comes out.
        "libraries": "\n".join(
            f'<script type="application/x-ibtpo" id="{name}">{pack(read[name])}</script>' for name in libraries
        ),
        "scripts": "\n".join(f"<script>{read[name]}</script>" for name in SCRIPTS),
    }
    out = []
    # One pass, so that a %%name%% in a text that is put in stays text. The odd pieces are the names.
    for i, piece in enumerate(read["viewer.html"].split("%%")):
        out.append(parts[piece] if i % 2 else piece)
    return "".join(out).encode("utf-8", "backslashreplace")


def _licence(page: Traversable, name: str) -> str:
    """The licence of a library that the page holds, as a comment."""
    name = name.partition(".")[0]
    text = (page / f"{name}.LICENSE").read_text("utf-8").replace("--", "- -")
    return f"<!-- {name}:\n{text}-->"


def _hash(text: str) -> str:
    """How a Content-Security-Policy names a script or a style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
