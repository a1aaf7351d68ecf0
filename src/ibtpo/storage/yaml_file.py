"""Reading the YAML files people write: recipes and `config.yaml`. What is wrong is named with file and line."""

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.1 takes 1e-6 for text


MOST_VALUES = 10_000  # an alias of aliases of aliases stands for more values than there is memory


def read_yaml(path: Path) -> dict[str, Any]:
    """The KEY: VALUE lines of a file. Raises `ConfigError` for anything else, and for a key that stands there twice."""
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
    except (ValueError, TypeError) as e:  # a date or a number that is none
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
    """A safe loader that refuses a key given twice: YAML would quietly take the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
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
    """How many values there are when all aliases are written out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # met again inside itself: without end
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return "" if mark is None else f", line {mark.line + 1}"


def _reason(error: yaml.YAMLError) -> str:
    reason = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    if "'\\t'" in reason:
        return "a line begins with a tab; YAML is indented with spaces"
    return " ".join(reason.split())


def yaml_value(text: str) -> Any:
    """A value as YAML reads it, but with 1e-6 a number, and text left as it was typed (a colon, a # or a date)."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # e.g. the 99th of a month; a thousand brackets
        return text
    if isinstance(value, str):
        if text[:1] in "'\"":
            return value
        return float(text) if _EXPONENT.fullmatch(text) else text
    if isinstance(value, bool | float) or (isinstance(value, int) and ":" not in text):
        return value
    if (value is None and text in ("null", "~", "")) or (isinstance(value, list | dict) and text[:1] in "[{"):
        return value
    return text
