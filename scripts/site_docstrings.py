"""Docstrings as the site shows them: lines `name: meaning` become a list.

This code base writes what an argument or a field means as `name: meaning`, one a line, without a heading. Markdown
would run such lines together. Used by mkdocstrings (see mkdocs.yml); nothing is imported, docstrings are read as text.
"""

import re
from typing import Any

import griffe

_ITEM = re.compile(r"(\w+(?:, \w+)*): (?=\S)")


def as_list(text: str, names: set[str]) -> str:
    """`text` with its lines `name: meaning` as items; only where every name before the colon is in `names`.

    An indented block (a formula, a drawing) stays as it is; lines that follow an item and are indented go on with it.
    """
    out: list[str] = []
    item = False
    for line in text.splitlines():
        found = _ITEM.match(line)
        if found and set(found[1].split(", ")) <= names:
            if not item and out and out[-1]:
                out.append("")
            shown = ", ".join(f"`{n}`" for n in found[1].split(", "))
            out.append(f"- {shown}: {line[found.end() :]}")
            item = True
        else:
            if item and line and not line.startswith(" "):
                out.append("")  # ends the list
                item = False
            elif not line:
                item = False
            out.append(line)
    return "\n".join(out)


def escaped(text: str) -> str:
    """`text` with its stars and angle brackets as what they are, a* or <id>; code and indented blocks stay."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if not line.startswith("    "):
            parts = line.split("`")
            parts[::2] = [re.sub(r"[*<]", r"\\\g<0>", part) for part in parts[::2]]
            lines[i] = "`".join(parts)
    return "\n".join(lines)


def _names(obj: griffe.Object) -> set[str]:
    """The arguments of a function; of a class its fields and those of its `__init__`."""
    if isinstance(obj, griffe.Function):
        return {p.name for p in obj.parameters}
    if isinstance(obj, griffe.Class):
        init = obj.members.get("__init__")
        arguments = {p.name for p in init.parameters} if isinstance(init, griffe.Function) else set()
        return {*obj.members, *arguments}
    return set()


class ArgumentLists(griffe.Extension):
    """Rewrites the docstring of each function and class once its members are known."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        self._rewrite(func)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        self._rewrite(cls)

    def _rewrite(self, obj: griffe.Object) -> None:
        if obj.docstring:
            obj.docstring.value = as_list(escaped(obj.docstring.value), _names(obj))
