"""Reads the YAML that people write: recipes, `config.yaml`, and values on the command line.

What is wrong with a file is an error that names the file and, where YAML tells it, the line.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # PyYAML follows YAML 1.1, where 1e-6 is text
_LEADING_ZERO = re.compile(r"[-+]?0[\d_]")  # an octal number in YAML 1.1

MOST_VALUES = 10_000  # a short file of aliases of aliases can stand for more values than fit in memory


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file of KEY: VALUE lines, by name.

    Raises `ConfigError` if the file cannot be read or holds anything else, and for a key that stands there twice.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}{_line(e)}: {_reason(e)}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: byte {e.start + 1} is not UTF-8; save the file as UTF-8") from e
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror or e}") from e
    except RecursionError as e:
        raise ConfigError(f"{path}: brackets or aliases are nested too deeply") from e
    except (ValueError, TypeError) as e:  # what looks like a date or a number but is none, such as 2024-99-99
        raise ConfigError(f"{path}: {e}; put text in quotes") from e
    if not isinstance(loaded, dict):
        found = "nothing" if loaded is None else type(loaded).__name__
        raise ConfigError(f"{path}: expected KEY: VALUE lines, got {found}")
    for key in loaded:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: a key must be the name of an option, got {key!r}")
    if _count(loaded, {}) > MOST_VALUES:
        raise ConfigError(f"{path}: its aliases stand for more than {MOST_VALUES} values; write them out")
    return loaded


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key given twice is an error, where PyYAML would quietly take the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Looks at the keys as they stand in the file, since the mapping that PyYAML makes has each only once."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str":
                line = key.start_mark.line + 1
                if key.value in seen:
                    problem = f"{key.value!r} stands here and in line {seen[key.value]}; remove one"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are when all aliases are written out.

    known: the counts of the lists and mappings met so far, by their identity, so that each is counted only once.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # what counts if the value is met again inside itself, without end
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]


def _line(error: yaml.YAMLError) -> str:
    """Where the error is, such as ", line 3"; empty if PyYAML does not say."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return "" if mark is None else f", line {mark.line + 1}"


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong, on one line."""
    reason = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    if "'\\t'" in reason:
        return "a line begins with a tab; YAML is indented with spaces"
    return " ".join(reason.split())


def yaml_value(text: str) -> Any:
    """The value that a text on the command line stands for: a number, a truth value, null, a list, a mapping or text.

    It is read as YAML, as in a recipe: `yes`, `no`, `on` and `off` are truth values, too, and quotes keep any of these
    as text. Outside brackets there are two exceptions. 1e-6 is a number. And what is no such value stays as it was
    typed, so that a colon, a # or a date in it changes nothing, nor does a zero in front: YAML would read 1:30 and
    1:30.5 in base 60, and 017 in base 8.
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # e.g. the 99th of a month; a thousand brackets
        return text
    if isinstance(value, str):
        if text[:1] in "'\"":
            return value
        return float(text) if _EXPONENT.fullmatch(text) else text
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        octal = isinstance(value, int) and _LEADING_ZERO.match(text.strip())
        return text if ":" in text or octal else value
    if (value is None and text in ("null", "~", "")) or (isinstance(value, list | dict) and text[:1] in "[{"):
        return value
    return text
