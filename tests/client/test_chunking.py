from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.client.chunking import (
    LEAST_SECONDS,
    MAX_BYTES,
    MAX_GROWTH,
    MAX_ITEMS,
    MAX_WINDOW,
    MAX_WINDOW_BYTES,
    TARGET_SECONDS,
    WINDOW_PER_SLOT,
    ChunkSizer,
)
from cluster.core.bounds import MAX_RANGE


def simulate(sizer: ChunkSizer, slots: int, item_seconds: float, journey_seconds: float, total: int) -> list[int]:
    """Sizes of all chunks of a map whose items each take so long, on slots that work one chunk after another."""
    now = 0.0
    free = [0.0] * slots
    running: list[tuple[float, int]] = []  # ends, items
    sizes: list[int] = []
    left = total
    while left or running:
        while left and sizer.can_send(len(running), sum(items for _, items in running)):
            size = min(sizer.size(left), left)
            slot = min(range(slots), key=free.__getitem__)
            free[slot] = max(free[slot], now + journey_seconds) + size * item_seconds
            running.append((free[slot], size))
            sizes.append(size)
            left -= size
        running.sort()
        now, items = running.pop(0)
        sizer.on_ended(items, items * item_seconds, 0)
    return sizes


def test_the_first_round_sends_one_item_to_each_slot() -> None:
    sizer = ChunkSizer(None, slots=3)

    assert [sizer.can_send(chunks, chunks) for chunks in range(5)] == [True, True, True, False, False]
    assert sizer.size(1000) == 1


def test_until_the_number_of_slots_is_known_there_is_one() -> None:
    sizer = ChunkSizer(None)
    assert sizer.can_send(0, 0)
    assert not sizer.can_send(1, 1)

    sizer.slots = 2

    assert sizer.can_send(1, 1)


@pytest.mark.parametrize("item_seconds", [5e-5, 2e-4, 1e-3, 0.01, 0.2])
@pytest.mark.parametrize("journey_seconds", [2e-4, 5e-3, 0.1])
def test_the_second_round_is_of_the_right_size_however_long_the_journey(
    item_seconds: float, journey_seconds: float
) -> None:
    sizer = ChunkSizer(None, slots=2)

    sizes = simulate(sizer, 2, item_seconds, journey_seconds, total=10_000)

    right = max(1, round(TARGET_SECONDS / item_seconds))
    assert sizes[:2] == [1, 1]
    assert all(abs(size - right) <= 1 for size in sizes[2:6])


def test_no_ops_are_at_full_size_after_two_rounds() -> None:
    sizer = ChunkSizer(None, slots=2)

    sizes = simulate(sizer, 2, item_seconds=5e-8, journey_seconds=2e-3, total=100_000)

    assert sizes[:4] == [1, 1, MAX_GROWTH, MAX_GROWTH]
    assert min(sizes[4:7]) >= 15_000
    assert len(sizes) <= 10


def test_one_quick_item_is_no_reason_for_many_large_chunks() -> None:
    sizer = ChunkSizer(None, slots=2)

    sizer.on_ended(1, 1e-6, 0)

    assert sizer.size(10**9) == MAX_GROWTH
    assert not sizer.can_send(2, 2 * MAX_GROWTH), "one for each slot, until one of them has told"


def test_a_slow_answer_after_a_quick_one_is_believed_by_and_by_and_the_more_the_longer_it_took() -> None:
    short, long = ChunkSizer(None), ChunkSizer(None)
    for sizer in (short, long):
        sizer.on_ended(20_000, 20_000 * 1e-6, 0)

    short.on_ended(1, 1e-5, 0)
    long.on_ended(10_000, 10_000 * 1e-5, 0)

    assert short.size(None) >= 0.99 * MAX_ITEMS
    assert long.size(None) == int(TARGET_SECONDS / 5.5e-6)


def test_a_first_call_that_imports_things_is_forgotten_at_once() -> None:
    sizer = ChunkSizer(None)
    sizer.on_ended(1, 3.0, 0)
    assert sizer.size(None) == 1

    sizer.on_ended(1, 1e-4, 0)

    assert sizer.size(None) == TARGET_SECONDS / 1e-4


def test_quick_items_with_large_arguments_are_not_probed_for_ever() -> None:
    sizer = ChunkSizer(None, slots=2)
    sizer.on_sent(1, MAX_BYTES)

    for _ in range(3):  # two of them are the first round
        sizer.on_ended(1, 1e-6, 0)

    assert sizer.size(None) == 1
    assert sizer.can_send(2 * WINDOW_PER_SLOT - 1, 7)


def test_chunks_of_a_fixed_size_need_no_probe() -> None:
    sizer = ChunkSizer(1, slots=2)

    assert sizer.can_send(2 * WINDOW_PER_SLOT - 1, 7)
    assert not sizer.can_send(2 * WINDOW_PER_SLOT, 8), "they may be long"


def test_slow_items_travel_alone() -> None:
    sizer = ChunkSizer(None, slots=4)

    sizes = simulate(sizer, 4, item_seconds=0.2, journey_seconds=2e-4, total=100)

    assert set(sizes) == {1}


def test_a_chunk_takes_about_fifty_milliseconds() -> None:
    sizer = ChunkSizer(None, slots=2)

    sizes = simulate(sizer, 2, item_seconds=0.001, journey_seconds=2e-4, total=5_000)

    middle = sizes[len(sizes) // 4 : len(sizes) // 2]
    assert all(0.9 * TARGET_SECONDS <= size * 0.001 <= 1.1 * TARGET_SECONDS for size in middle)


def test_chunks_shrink_near_the_end_but_not_to_nothing() -> None:
    sizer = ChunkSizer(None, slots=2)
    sizer.on_ended(10, 10 * 1e-4, 0)

    assert sizer.size(None) == TARGET_SECONDS / 1e-4
    assert sizer.size(800) == 200
    assert sizer.size(8) == LEAST_SECONDS / 1e-4


def test_large_arguments_bound_a_chunk() -> None:
    sizer = ChunkSizer(None, slots=2)
    sizer.on_ended(1, 1e-5, 0)

    sizer.on_sent(4, MAX_BYTES)

    assert sizer.size(None) == 4


def test_large_results_bound_a_chunk() -> None:
    sizer = ChunkSizer(None, slots=2)
    sizer.on_sent(4, 100)

    sizer.on_ended(4, 4e-5, MAX_BYTES)

    assert sizer.size(None) == 4


def test_a_fixed_size_stays() -> None:
    sizer = ChunkSizer(7, slots=2)
    sizer.on_ended(7, 1e-6, 0)

    assert sizer.size(3) == 7


def test_tiny_fixed_chunks_may_be_many_on_their_way() -> None:
    sizer = ChunkSizer(1, slots=2)
    sizer.on_ended(1, 1e-5, 10)

    assert sizer.can_send(100, 100)
    assert not sizer.can_send(MAX_WINDOW, MAX_WINDOW)


def test_chunks_of_large_results_are_few_on_their_way() -> None:
    sizer = ChunkSizer(1, slots=2)
    sizer.on_ended(1, 1e-5, MAX_WINDOW_BYTES // 10)

    assert sizer.can_send(10, 10)
    assert not sizer.can_send(11, 11)


def test_chunks_that_take_their_time_are_few_on_their_way() -> None:
    sizer = ChunkSizer(None, slots=2)
    sizer.on_ended(1, 1.0, 0)

    assert sizer.can_send(2 * WINDOW_PER_SLOT - 1, 7)
    assert not sizer.can_send(2 * WINDOW_PER_SLOT, 8)


def test_a_range_of_full_size_travels_as_one() -> None:
    assert MAX_ITEMS <= MAX_RANGE


@given(
    slots=st.integers(1, 64),
    item_seconds=st.floats(1e-8, 10.0),
    journey_seconds=st.floats(1e-5, 0.1),
    total=st.integers(0, 3000),
)
def test_every_map_ends_with_all_its_items_sent_and_no_chunk_takes_too_long(
    slots: int, item_seconds: float, journey_seconds: float, total: int
) -> None:
    sizer = ChunkSizer(None, slots=slots)

    sizes = simulate(sizer, slots, item_seconds, journey_seconds, total)

    assert sum(sizes) == total
    assert all(1 <= size <= MAX_ITEMS for size in sizes)
    assert all(size == 1 or size * item_seconds <= 1.01 * TARGET_SECONDS for size in sizes)


@given(
    told=st.lists(
        st.tuples(st.integers(1, MAX_ITEMS), st.floats(allow_nan=False), st.integers(0, 1 << 32)), min_size=1
    ),
    remaining=st.none() | st.integers(0, 10**9),
)
def test_whatever_is_told_no_chunk_is_out_of_bounds(told: list[tuple[int, float, int]], remaining: int | None) -> None:
    sizer = ChunkSizer(None, slots=2)

    for items, seconds, size_bytes in told:
        sizer.on_ended(items, seconds, size_bytes)

    assert 1 <= sizer.size(remaining) <= min(MAX_ITEMS, MAX_GROWTH * max(items for items, _, _ in told))
    assert sizer.can_send(0, 0)


@pytest.mark.parametrize("slots", [0, -1])
def test_a_cluster_without_slots_yet_is_probed_as_if_it_had_one(slots: int) -> None:
    assert ChunkSizer(None, slots=slots).can_send(0, 0)
