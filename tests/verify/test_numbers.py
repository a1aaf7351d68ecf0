"""Numbers, read exactly."""

from fractions import Fraction

import pytest

from ibtpo.verify.numbers import read_number, same_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-3", Fraction(-3)),
        ("1,234.5", Fraction(2469, 2)),
        ("1.5e10", Fraction(15 * 10**9)),
        ("1e-08", Fraction(1, 10**8)),
        (r"6.02\times 10^{23}", Fraction(602 * 10**21)),
        (r"10^{-20}", Fraction(1, 10**20)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"2\frac{1}{4}", Fraction(9, 4)),
        ("-2 1/4", Fraction(-9, 4)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("0.333...", Fraction(1, 3)),
        (r"2\frac{5}{4}", None),
        ("2+3", None),
        ("1/0", None),
        ("1,23", None),
        ("1e999999", None),
        ("x", None),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction | None) -> None:
    found = read_number(text)
    assert (found.value if found else None) == value


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("0.5", "1/2", True),
        ("0.333333", "1/3", True),
        ("0.33333", "1/3", False),
        ("0.333334", "1/3", False),
        ("0.3333333", "0.333333", False),
        ("3.33333e-9", r"\frac{1}{3}", False),
        ("0.500001", "1/2", False),
    ],
)
def test_a_rounded_decimal_stands_for_a_fraction_and_for_no_other_decimal(first: str, second: str, same: bool) -> None:
    a, b = read_number(first), read_number(second)
    assert a is not None
    assert b is not None
    assert same_number(a, b) is same_number(b, a) is same
