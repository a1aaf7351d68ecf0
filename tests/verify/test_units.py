"""Units behind a number."""

from fractions import Fraction

import pytest

from ibtpo.verify.numbers import Number
from ibtpo.verify.units import read_amount, read_unit, split_unit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12 km/h", "12"),
        (r"12 \mathrm{ km} / \mathrm{h}", "12"),
        (r"9.8 \mathrm{m}/\mathrm{s}^2", "9.8"),
        ("5 m", "5"),
        ("5 dollars per kg", "5"),
        (r"8\sqrt{2}\text{ cm}", r"8\sqrt{2}"),
        (r"90^\circ", "90"),
        ("USD 12", "12"),
        ("50% of the students", "50%"),
        ("2t", "2t"),
        ("3x", "3x"),
        ("5 mod 7", "5 mod 7"),
        ("x", "x"),
    ],
)
def test_a_unit_is_cut_off_where_it_is_one(text: str, value: str) -> None:
    assert split_unit(text)[0] == value


def test_units_that_are_known_have_dimensions_and_a_factor() -> None:
    speed = read_unit("km/h")
    assert speed is not None
    assert (speed.powers, speed.factor) == ((("length", 1), ("time", -1)), Fraction(5, 18))
    assert read_unit(r"\text{square inches}") == read_unit("inch")
    assert read_unit("apples") is None


def test_amounts_of_several_units_add_up() -> None:
    assert read_amount("1 hour 20 minutes") == (Number(Fraction(4800)), "time")
    assert read_amount(r"1 \text{ hour } 20 \text{ minutes}") == (Number(Fraction(4800)), "time")
    assert read_amount("80 minutes") == (Number(Fraction(4800)), "time")
    assert read_amount("5 apples") is None
    assert read_amount("20 minutes 1 hour") is None
