"""The rows to train on reach the trainer as they are, and columns of images that hold none are left out."""

import datetime
from typing import Any

import pytest
from torch.utils.data import DataLoader

from ibtpo.errors import ConfigError
from ibtpo.training.rows import has_image, python_rows, without_images

ROWS: list[dict[str, Any]] = [
    {"prompt": "a", "level": 3, "big": 2**70, "meta": {"x": 1}, "day": datetime.date(2026, 1, 2), "list": [1, "a"]},
    {"prompt": "b", "level": "5a", "big": None, "meta": {"y": [1, {}]}, "day": b"\xff", "list": 0.5},
]


def test_a_column_may_hold_values_of_any_types() -> None:
    data = python_rows(ROWS)
    assert len(data) == 2
    assert [data[0], data[1]] == ROWS
    assert list(data) == ROWS
    assert next(iter(DataLoader(data, batch_size=2, collate_fn=list))) == ROWS


@pytest.mark.parametrize("nothing", [None, [], "", {"bytes": None, "path": None}, [None], [{"bytes": None}]])
def test_a_column_of_images_without_any_is_left_out(nothing: Any) -> None:
    assert not has_image({"images": nothing})
    assert without_images([{"prompt": "a", "image": nothing, "images": nothing}]) == [{"prompt": "a"}]


def test_a_row_with_an_image_is_refused_by_its_name() -> None:
    for image in ("a.png", {"bytes": b"1", "path": None}, [None, "a.png"], object()):
        with pytest.raises(ConfigError, match="'q7' has an image: trees are of text"):
            without_images([{"id": "q6", "image": None}, {"id": "q7", "image": image}])
    with pytest.raises(ConfigError, match="row 1 has an image"):
        without_images([{"images": ["a.png"]}])
