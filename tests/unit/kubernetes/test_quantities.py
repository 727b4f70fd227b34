"""Quantities are read exactly, and whole numbers of them never promise too much."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.kubernetes import quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("250m", Fraction(1, 4)),
        ("1.5Gi", 3 * 2**29),
        (".5", Fraction(1, 2)),
        ("2e3", 2000),
        ("2E3", 2000),
        ("2E", 2 * 10**18),
        ("1Ei", 2**60),
        ("123456789n", Fraction(123456789, 10**9)),
        ("7u", Fraction(7, 10**6)),
        ("-1k", -1000),
        ("128974848", 128974848),
    ],
)
def test_every_form_is_read(text, value):
    assert quantities.parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "1mi", "1Kib", "1e", "NaN", "0x10", "1_000", "1ee3"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError, match="expected a quantity"):
        quantities.parse_quantity(text)


def test_what_is_asked_is_rounded_up_and_what_is_given_down():
    assert (quantities.millicores_up("1500u"), quantities.millicores_down("1500u")) == (2, 1)
    assert (quantities.mib_up("1500Ki"), quantities.mib_down("1500Ki")) == (2, 1)
    assert (quantities.mib_up("3Mi"), quantities.mib_down("3Mi")) == (3, 3)


@given(st.integers(0, 10**12))
def test_what_is_written_is_read_again(thousandths):
    cpu = thousandths / 1000
    assert quantities.parse_quantity(quantities.millicores_text(cpu)) * 1000 == Fraction(thousandths, 1000)


@given(st.floats(0, 10**7))
def test_memory_is_written_to_the_byte_above(mib):
    written = quantities.parse_quantity(quantities.bytes_text(mib))
    assert 0 <= written - Fraction(mib) * 2**20 < 1
