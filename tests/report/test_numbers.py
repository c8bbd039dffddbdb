import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neftune.report import numbers
from neftune.report.numbers import MINUS


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0, "0.00"),
        (3, "3"),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
        (0.0667, "0.067"),
        (0.00123, "0.00123"),
        (0.0000123, "1.2e\N{MINUS SIGN}05"),
        (-1.5, f"{MINUS}1.50"),
        (math.nan, numbers.MISSING),
        (None, numbers.MISSING),
        (math.inf, "∞"),
    ],
)
def test_about_three_significant_digits(value, shown):
    assert numbers.number(value) == shown


def test_a_value_that_rounds_to_zero_has_no_sign():
    assert numbers.number(-0.0004, decimals=2) == "0.00"
    assert numbers.signed(-0.0004, decimals=2) == "0.00"
    assert numbers.signed(0.0004, decimals=2) == "0.00"


def test_an_interval_has_one_number_of_decimals():
    assert numbers.interval(4.1, -1.25, 9.4444) == f"4.10 [{MINUS}1.25, 9.44]"
    assert numbers.interval(4.1, -1.25, 12.4, signed=True) == f"+4.1 [{MINUS}1.2, +12.4]"
    assert numbers.interval(0.0312, -0.012, 0.074) == f"0.031 [{MINUS}0.012, 0.074]"


def test_an_interval_that_is_not_there_is_said():
    assert numbers.interval(4.1, math.nan, math.nan) == "4.10 [no interval]"
    assert numbers.interval(4.1, None, None, signed=True) == "+4.10 [no interval]"
    assert numbers.interval(math.nan, 1, 2) == numbers.MISSING


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (48, "48 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (None, "–"), (59.7, "1 min 00 s")],
)
def test_durations(seconds, shown):
    assert numbers.duration(seconds) == shown


def test_counts_have_their_noun():
    assert (numbers.count(1, "seed"), numbers.count(1200, "seed")) == ("1 seed", "1,200 seeds")


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_terminal_gets_plain_ascii(value):
    assert numbers.ascii_only(numbers.number(value)).isascii()


@given(st.floats(min_value=1e-4, max_value=1e9), st.sampled_from([-1, 1]))
def test_what_is_shown_is_near_what_is_meant(size, sign):
    value = sign * size
    shown = float(numbers.ascii_only(numbers.number(value)).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.06)
