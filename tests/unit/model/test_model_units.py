from __future__ import annotations

import pytest

from opendt.model import parse_data_mib, parse_frequency_mhz, parse_power_w, parse_time_ms


@pytest.mark.parametrize(
    ("value", "mhz"),
    [(2100, 2100.0), ("2.1 GHz", 2100.0), ("2.1e3 mhz", 2100.0), ("2100000kHz", 2100.0), (" 5 Hz ", 5e-6)],
)
def test_frequency_ignores_case_and_defaults_to_mhz(value, mhz):
    assert parse_frequency_mhz(value) == pytest.approx(mhz, rel=1e-15)


@pytest.mark.parametrize(
    ("value", "watts"),
    [(400, 400.0), ("0.4 kW", 400.0), ("10 KWatts", 10_000.0), ("1 watt", 1.0), ("5 MW", 5e6), ("5 mW", 0.005)],
)
def test_power_defaults_to_watts(value, watts):
    assert parse_power_w(value) == watts


@pytest.mark.parametrize(
    ("value", "mib"),
    [(1024, 1024.0), ("128 GiB", 131_072.0), ("8 Mib", 1.0), ("8 MiB", 8.0), ("1048576 B", 1.0), ("1.048576 MB", 1.0)],
)
def test_data_tells_bits_from_bytes_and_defaults_to_mib(value, mib):
    assert parse_data_mib(value) == pytest.approx(mib, rel=1e-15)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (5, 5.0),
        ("300 seconds", 300_000.0),
        ("5 min", 300_000.0),
        ("2 hours", 7.2e6),
        ("PT1H30M", 5.4e6),
        ("P1D", 8.64e7),
    ],
)
def test_time_defaults_to_ms(value, ms):
    assert parse_time_ms(value) == ms


def test_bare_time_may_have_another_unit():
    assert parse_time_ms(300, bare_unit_ms=1000) == 300_000
    assert parse_time_ms("300 ms", bare_unit_ms=1000) == 300


@pytest.mark.parametrize("parse", [parse_data_mib, parse_frequency_mhz, parse_power_w, parse_time_ms])
@pytest.mark.parametrize(
    "value", ["", "fast", "1 parsec", "1e999", True, None, [1], float("nan"), float("inf"), 10**400]
)
def test_anything_else_is_refused_with_what_is_accepted(parse, value):
    with pytest.raises(ValueError, match="such as"):
        parse(value)
