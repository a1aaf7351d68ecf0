"""Trees with awkward texts for the tests of the viewer, and a reader of its pages that needs no browser."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from helpers.trees import BUILDERS, HAND, step
from ibtpo.tree import ReasoningTree, Step, write_trees

WIDE = {"width": 1400, "height": 900}
PHONE = {"width": 390, "height": 844}

# A text that would take over a page that does not escape it: it closes every element that the page has text in, opens
# those that make a parser skip what follows, and holds event handlers, template marks and control characters.
EVIL = (
    "</script></noscript></title></style></details><script>window.pwned = 1</script><!--<script> "
    '<img src=x onerror="window.pwned = 2"> <svg onload=window.pwned=3> \' " & &lt; %%index%% ${window.pwned = 4} '
    "\u202elive\u2066 \x00 \x07 \x1b[31mred\x1b]0;title\x07 \x7f \u2028 end"
)


def evil_tree(long: int = 1_000_000) -> ReasoningTree:
    """A tree with EVIL as its id, prompt, answer, step texts and meta, and with one long step.

    long: how many characters the long step has.
    """
    tree = ReasoningTree(f"id {EVIL}", [1], f"prompt {EVIL}", f"answer {EVIL}", {"model": EVIL, "verifier": EVIL})
    tree.meta["search"] = {"branching": EVIL, "budget": {EVIL: EVIL}}
    tree.add(0, [Step((1,), f"first {EVIL}", (-0.5,), (0.3,)), Step((2,), "long " + "x" * long, (-0.1,))], 1.0, "eos")
    tree.add(0, [Step((3,), "שלום עולם", (-0.25,))], 0.0, "length")
    tree.add(1, [Step((4,), EVIL, (-0.125,))], None, "verifier_error", round=1, score=-0.3)
    return tree


def wide_tree(leaves: int = 64) -> ReasoningTree:
    """A large tree: sixteen first answers of four steps, then branches in turn; every third answer is right.

    leaves: how many answers it has.
    """
    tree = ReasoningTree("wide", [7], "A question with many answers?", "42", {"search": {"branching": "ib"}})
    for i in range(leaves):
        at = 0 if i < 16 else 1 + 4 * (i % 16)
        steps = [step([10 + 7 * i + d, 5], [0.5, 0.25 + 0.5 * (i % 3) / 3], [0.5, 0.25]) for d in range(4)]
        tree.add(at, steps, float(i % 3 == 0), "eos", round=max(0, i - 15), score=None if i < 16 else 0.01 * i - 0.5)
    return tree


def example_trees() -> list[ReasoningTree]:
    """The small trees of `helpers.trees` without given steps, whose numbers are known."""
    return [make() for name, make in BUILDERS.items() if "given" not in HAND[name]]


def write_run(folder: Path, trees: list[ReasoningTree], rank: str = "", at: int = 1) -> Path:
    """Writes the trees of one step into a run folder, and returns their file.

    folder: the run folder.
    trees: the trees.
    rank: the ending of the file's name for one of several processes, empty for a single one.
    at: the step.
    """
    file = folder / "trees" / f"step_{at:06d}{rank}.jsonl.gz"
    write_trees(file, trees)
    return file


class Page(HTMLParser):
    """A page of the viewer, taken apart.

    scripts: (attributes, text) of every script element; those with a type are data.
    styles: the text of every style element.
    metas: the attributes of every meta element.
    tags: (name, attributes) of every element.
    text: all text outside of scripts and styles.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.metas: list[dict[str, str | None]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: str | None = None
        self.feed(file.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "meta":
            self.metas.append(dict(attrs))
        if tag in ("script", "style"):
            self._inside = tag
            (self.scripts.append((dict(attrs), "")) if tag == "script" else self.styles.append(""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attrs, text = self.scripts.pop()
            self.scripts.append((attrs, text + data))
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.text += data

    @property
    def ours(self) -> list[str]:
        """The texts of the scripts that run, which are those without a type."""
        return [text for attrs, text in self.scripts if "type" not in attrs]

    def unpacked(self, name: str) -> str:
        """The text in the compressed chunk whose id is `name`."""
        (text,) = [text for attrs, text in self.scripts if attrs.get("id") == name]
        return gzip.decompress(base64.b64decode(text, validate=True)).decode()

    def data(self, name: str) -> Any:
        """The value in the compressed chunk whose id is `name`."""
        return json.loads(self.unpacked(name))

    @property
    def facts(self) -> dict[str, Any]:
        """What the page knows of all trees together, such as the colour scales."""
        (text,) = [text for attrs, text in self.scripts if attrs.get("id") == "facts"]
        return json.loads(text)

    @property
    def trees(self) -> list[Any]:
        """What the page holds of each tree, in order."""
        ids = [attrs.get("id") or "" for attrs, _ in self.scripts]
        return [json.loads(x) for i in ids if re.fullmatch(r"t\d+", i) for x in self.unpacked(i).split("\n")]

    @property
    def policy(self) -> dict[str, list[str]]:
        """The page's Content-Security-Policy: the values of each directive by its name."""
        (content,) = [m["content"] or "" for m in self.metas if m.get("http-equiv") == "Content-Security-Policy"]
        return {name: values for name, *values in (part.split() for part in content.split(";"))}


def csp_hash(text: str) -> str:
    """How a Content-Security-Policy names a script or a style sheet of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def pair_of_trees() -> tuple[ReasoningTree, ReasoningTree]:
    """A problem before and after training.

    Steps 10, 20 and 30 are in both; 21 is gone, and with it the branch after 10; 40 is new. The confidence in 10 rose
    from 0.5 to 0.75, and two of three answers were right where now one is.
    """
    before, after = (ReasoningTree("q1", [1], "Which way?", "20") for _ in range(2))
    before.add(0, [step([10], [0.5]), step([20], [0.5])], 1.0, "eos")
    before.add(0, [step([30], [0.25])], 0.0, "eos")
    before.add(1, [step([21], [0.5])], 1.0, "eos", round=1, score=-0.5)
    after.add(0, [step([10], [0.75]), step([20], [0.5])], 1.0, "eos")
    after.add(0, [step([40], [0.125])], 0.0, "eos")
    after.add(0, [step([30], [0.25])], 0.0, "eos")
    return before, after


def short_tree(id: str, *rewards: float) -> ReasoningTree:
    """A tree with an answer of one step for each reward."""
    tree = ReasoningTree(id, [1], f"Question {id}.", "?")
    for i, reward in enumerate(rewards):
        tree.add(0, [step([50 + i], [0.5])], reward, "eos")
    return tree


def write_diagnosis_trees(folder: Path, **checkpoints: list[ReasoningTree]) -> None:
    """Writes the trees of checkpoints as `ibtpo diagnose --output` does, with a summary that names them in order."""
    for label, trees in checkpoints.items():
        write_trees(folder / "trees" / f"{label}.jsonl", trees)
    rows = [{"label": label} for label in checkpoints]
    (folder / "summary.json").write_text(json.dumps({"checkpoints": rows, "verdict": ["Eff-Rate fell"]}))
