"""What may come from outside, to the last value; each of them is written into a store or a message, or kept in memory."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import pytest

from cluster.core import bounds
from cluster.core.records import Options

CENTURY = 3_155_760_000.0
LARGEST = 1.7976931348623157e308


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (bounds.Seconds, 0.0, CENTURY),
        (bounds.Wall, -253_402_300_800.0, 253_402_300_800.0),
        (bounds.Figure, -LARGEST, LARGEST),
        (bounds.Factor, 1.0, 1000.0),
        (bounds.Fraction, 0.0, 1.0),
    ],
)
def test_a_number_is_taken_up_to_its_bounds_and_not_beyond(kind: object, least: float, most: float) -> None:
    assert [msgspec.convert(value, kind) for value in (least, most)] == [least, most]
    for value in (math.nextafter(least, -math.inf), math.nextafter(most, math.inf), math.nan):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, kind)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (bounds.Whole, -(2**63 - 1), 2**63 - 1),
        (bounds.Natural, 0, 2**63 - 1),
        (bounds.Count, 0, 1_000_000_000),
        (bounds.Amount, 1, 1_000_000_000),
        (bounds.Priority, -(2**31 - 1), 2**31 - 1),
        (bounds.Size, 1, 10**18),
    ],
)
def test_a_whole_number_is_taken_up_to_its_bounds_and_not_beyond(kind: object, least: int, most: int) -> None:
    assert [msgspec.convert(value, kind) for value in (least, most)] == [least, most]
    for value in (least - 1, most + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, kind)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [(bounds.Text, 0, 1000), (bounds.Name, 1, 1000), (bounds.LongText, 0, 1_048_576)],
)
def test_a_text_is_taken_up_to_its_length_and_not_beyond(kind: object, least: int, most: int) -> None:
    for length in (least, most):
        assert msgspec.convert("x" * length, kind) == "x" * length
    for length in {least - 1, most + 1} - {-1}:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert("x" * length, kind)


@pytest.mark.parametrize(("kind", "most"), [(bounds.Few, 10_000), (bounds.Batch, 10_000), (bounds.Orders, 1_000_000)])
def test_so_many_at_once_and_not_one_more(kind: msgspec.Meta, most: int) -> None:
    several = Annotated[list[int], kind]

    assert len(msgspec.convert([0] * most, several)) == most
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([0] * (most + 1), several)


def test_a_job_names_no_more_limits_of_memory_than_attempts_make_sense_of() -> None:
    assert msgspec.convert({"memory": [1] * 10}, Options).memory == (1,) * 10
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"memory": [1] * 11}, Options)
