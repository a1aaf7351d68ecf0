"""The rows that a run trains on, as the data set that TRL takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError

_IMAGES = ("image", "images")  # TRL takes a row with such a column for one with pictures, whatever is in it


def python_rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A `datasets.Dataset` that gives out the very rows it was made of.

    Its own table would want one type a column, 64 bits for an integer and the same fields in every mapping, and would
    refuse or change what a verifier gets. So the table holds only the rows' numbers.

    rows: at least one, all with the columns of the first.
    """
    from datasets import Dataset

    def look_up(batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        return {name: [rows[number][name] for number in batch["row"]] for name in rows[0]}

    return Dataset.from_dict({"row": list(range(len(rows)))}).with_transform(look_up)


def without_images(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without their columns of images, which must be empty: data sets of text often have such a column.

    Raises `ConfigError` for a row with an image.
    """
    for number, row in enumerate(rows, 1):
        if has_image(row):
            at = repr(row["id"]) if row.get("id") is not None else f"row {number}"
            raise ConfigError(f"{at} has an image: trees are of text; remove the column of images or such rows")
    return [{name: value for name, value in row.items() if name not in _IMAGES} for row in rows]


def has_image(row: Mapping[str, Any]) -> bool:
    """Whether a row holds an image: something other than null, an empty list, or a list or mapping of nothing."""
    return any(_is_filled(row.get(name)) for name in _IMAGES)


def _is_filled(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_filled, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_filled, value))
    return value is not None and value != ""
