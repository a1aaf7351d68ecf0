"""The layers of CONTRIBUTING.md hold: no import points upwards, none goes in a circle; the science needs no torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ibtpo

PACKAGE = Path(ibtpo.__file__).parent
REPOSITORY = Path(__file__).parents[1]

# Low to high; CONTRIBUTING.md has the same list. A module may import from its own layer and from those before it.
LAYERS = (
    ("errors", "_text", "_files", "_seeds", "_version", "_extras", "_options"),
    (
        *("tree", "steps", "score", "incremental", "branching", "credit", "metrics"),
        *("engines", "environments", "verify", "tasks", "sandbox", "tools"),
    ),
    ("rollout", "search"),
    ("storage", "evaluation"),
    ("training", "viewer", "integrations"),
    ("report",),
    ("compare",),
    ("commands",),
    ("cli",),
)
ENTRANCES = ("__init__", "__main__")  # above all: they hand on what is below and nobody imports them
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
SCIENCE = ("tree", "steps", "score", "incremental", "branching", "credit", "metrics", "rollout", "search")

Module = tuple[str, ...]  # ("engines", "kv"); a package is ("engines",), ibtpo itself ()


def module_of(path: Path) -> Module:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: Module) -> Iterator[tuple[Module, int, str]]:
    """(what is imported, line, when) of every import from this package; when: "start", "later" or "typing"."""

    def walk(node: ast.AST, when: str) -> Iterator[tuple[Module, int, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "later" if when == "start" else when
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, "typing")
            for child in node.orelse:
                yield from walk(child, when)
            return
        for target in targets(node, module, FILES[module].name == "__init__.py"):
            yield target, node.lineno, when  # type: ignore[attr-defined]
        for child in ast.iter_child_nodes(node):
            yield from walk(child, when)

    yield from walk(ast.parse(FILES[module].read_text(encoding="utf-8")), "start")


def targets(node: ast.AST, module: Module, is_package: bool) -> list[Module]:
    """The modules of this package that one statement imports."""
    names: list[Module] = []
    if isinstance(node, ast.Import):
        names = [tuple(alias.name.split(".")) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = module if is_package else module[:-1]
        start = ("ibtpo", *package[: len(package) - node.level + 1]) if node.level else ()
        base = (*start, *(node.module.split(".") if node.module else ()))
        names = [(*base, alias.name) for alias in node.names]
    found = []
    for name in names:
        if name[:1] == ("ibtpo",):
            found.append(name[1:] if name[1:] in FILES else name[1:-1])  # a name in a module stands for the module
    return found


def test_every_module_has_a_layer() -> None:
    rooms = {module[0] for module in FILES if module} - set(ENTRANCES)
    assert rooms == set(LEVEL)


def test_contributing_lists_the_same_layers_in_the_same_order() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layers = re.sub(r"\n {3}", " ", text.partition("## Layers")[2].partition("\n## ")[0])  # an item may take two lines
    listed = re.findall(r"^\d+\. (`.*)$", layers, flags=re.MULTILINE)
    assert tuple(tuple(re.findall(r"`([\w]+)/?`", line.partition(":")[0])) for line in listed) == LAYERS


def test_no_import_points_upwards() -> None:
    """Imports inside functions count; annotations for type checkers count, too: they name what a reader must know."""
    upward = []
    for module in FILES:
        if not module or module[0] in ENTRANCES:
            continue
        for target, line, when in imports(module):
            if not target:
                upward.append(f"{'.'.join(module)}:{line} imports the package itself ({when})")
            elif LEVEL[target[0]] > LEVEL[module[0]]:
                upward.append(f"{'.'.join(module)}:{line} imports {'.'.join(target)} ({when})")
    assert upward == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    arrows: dict[Module, set[Module]] = {}
    for module in FILES:
        arrows[module] = set()
        for target, _, when in imports(module):
            if when == "start":
                # Importing a module runs its packages' own files first, but for those that are running already.
                chain = {target[:n] for n in range(1, len(target) + 1)}
                arrows[module] |= {m for m in chain if m in FILES and m != module[: len(m)]} | ({target} - {module})
    assert circle(arrows) == []


def circle(arrows: dict[Module, set[Module]]) -> list[str]:
    """The modules of a circle, or none."""
    done: set[Module] = set()

    def visit(module: Module, path: list[Module]) -> list[Module]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(arrows.get(module, ())):
            if found := visit(target, [*path, module]):
                return found
        done.add(module)
        return []

    for module in arrows:
        if found := visit(module, []):
            return [".".join(m) for m in found]
    return []


def test_a_circle_and_an_import_in_a_function_are_found() -> None:
    """The two tests above can fail."""
    assert circle({("a",): {("b",)}, ("b",): {("c",)}, ("c",): {("a",)}}) == ["a", "b", "c", "a"]
    later = [(target, when) for target, _, when in imports(("cli",)) if target == ("_version",)]
    assert later == [(("_version",), "later")]


def test_the_science_imports_without_torch_and_in_a_third_of_a_second() -> None:
    """The processor time beyond numpy's own, the best of five: what else runs on the machine only adds to it."""
    science = "; ".join(f"import ibtpo.{name}" for name in SCIENCE)
    code = f"""
import sys, time
import numpy, asyncio
began = time.process_time()
{science}
print(time.process_time() - began, [m for m in ("torch", "transformers", "trl", "yaml", "rich") if m in sys.modules])
"""
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        taken, _, loaded = done.stdout.strip().partition(" ")
        assert loaded == "[]"
        seconds.append(float(taken))
    assert min(seconds) < 0.3


@pytest.mark.parametrize("name", SCIENCE)
def test_each_science_file_imports_without_torch_by_itself(name: str) -> None:
    code = f"import ibtpo.{name}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
