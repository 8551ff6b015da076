from __future__ import annotations

import pytest

from cluster.core.bounds import MAX_SIZE
from cluster.deploy.quantities import read_delay, read_duration, read_size, write_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(2, 2.0), (0.5, 0.5), ("10s", 10.0), ("250ms", 0.25), ("5m", 300.0), ("1h30m", 5400.0), ("7d", 604800.0)],
)
def test_a_duration_is_read(text: object, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10 parsecs", "-5s", "0s", 0, -1, True, None, [], float("nan"), float("inf")])
def test_what_is_no_duration_says_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="is no duration; write seconds, or a text like"):
        read_duration(text)


@pytest.mark.parametrize(("text", "seconds"), [(0, 0.0), ("0s", 0.0), ("250ms", 0.25), (1.5, 1.5)])
def test_a_delay_may_be_zero(text: object, seconds: float) -> None:
    assert read_delay(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", -1, True, None, [], float("nan")])
def test_what_is_no_delay_says_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="is no duration; write seconds, or a text like 0s"):
        read_delay(text)


def test_no_delay_is_written_as_such() -> None:
    assert write_duration(0.0) == "0s"


@pytest.mark.parametrize("seconds", [0.00001, 123456.75, 0.05, 0.25, 1.0, 2.0, 90.0, 300.0, 3600.0, 5400.0, 604800.0])
def test_a_duration_that_is_written_reads_back_as_the_same(seconds: float) -> None:
    assert read_duration(write_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("500kB", 500_000),
        ("50MB", 50_000_000),
        ("50 MB", 50_000_000),
        ("10GB", 10**10),
        ("1TB", 10**12),
        ("50MiB", 50 * 1024**2),
        ("1.5GiB", 3 * 512 * 1024**2),
    ],
)
def test_a_size_is_read(text: object, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-5MB", 0, -1, True, None, 1.5, "0B", "5 EB", MAX_SIZE + 1])
def test_what_is_no_size_says_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="is no size; write bytes, or a text like"):
        read_size(text)
