"""Rows of IFEval (arXiv 2311.07911) in the form that its checkers take."""

from typing import Any

from ..errors import DataError


def ifeval_row(at: str, row: Any) -> Any:
    """A row in the form that the checkers take.

    Nulls in `kwargs` are removed; copies on the Hugging Face hub fill them in. A row without an `id` gets one from its
    `key`.

    at: file and line, for the error message.
    row: the row as it was read. What is no object is returned as it is.

    Raises `DataError` for a row that lacks IFEval's columns or has something else in them.
    """
    if not isinstance(row, dict):
        return row  # the reader says what is wrong with it
    for column in ("instruction_id_list", "kwargs"):
        if column not in row:
            raise DataError(f"{at}: no column {column!r}; expected IFEval's: key, prompt, instruction_id_list, kwargs")
    names, kwargs = row["instruction_id_list"], row["kwargs"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{at}, column 'instruction_id_list': expected a list of names, got {names!r:.80}")
    if not isinstance(kwargs, list) or not all(isinstance(item, dict) for item in kwargs):
        raise DataError(f"{at}, column 'kwargs': expected a list of objects, got {kwargs!r:.80}")
    if len(kwargs) != len(names):
        raise DataError(f"{at}, column 'kwargs': {len(kwargs)} objects for {len(names)} instructions")
    clean = [{key: value for key, value in item.items() if value is not None} for item in kwargs]
    identity = {} if "id" in row or row.get("key") is None else {"id": f"ifeval-{row['key']}"}
    return {**row, **identity, "kwargs": clean}
