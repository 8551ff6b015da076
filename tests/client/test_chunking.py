from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.client.chunking import LEAST_SECONDS, MAX_BYTES, MAX_ITEMS, MAX_WINDOW, TARGET_SECONDS, ChunkSizer


def simulate(sizer: ChunkSizer, slots: int, item_seconds: float, journey_seconds: float, total: int) -> list[int]:
    """Sizes of all chunks of a map whose items each take so long, on slots that work one chunk after another."""
    now = 0.0
    free = [0.0] * slots
    running: list[tuple[float, int, float]] = []  # ends, items, sent
    sizes: list[int] = []
    left = total
    while left or running:
        while left and sizer.can_send(len(running), sum(items for _, items, _ in running)):
            size = min(sizer.size(left), left)
            slot = min(range(slots), key=free.__getitem__)
            free[slot] = max(free[slot], now + journey_seconds) + size * item_seconds
            running.append((free[slot], size, now))
            sizes.append(size)
            left -= size
        running.sort()
        now, items, sent = running.pop(0)
        sizer.on_ended(items, sent, now)
    return sizes


def test_the_first_round_sends_one_item_to_each_slot() -> None:
    sizer = ChunkSizer(3, None)

    assert [sizer.can_send(chunks, chunks) for chunks in range(5)] == [True, True, True, False, False]
    assert sizer.size(1000) == 1


def test_no_ops_are_at_full_size_after_two_rounds() -> None:
    sizer = ChunkSizer(2, None)

    sizes = simulate(sizer, slots=2, item_seconds=1e-6, journey_seconds=2e-4, total=100_000)

    assert max(sizes[:6]) >= MAX_ITEMS // 2
    assert len(sizes) <= 30


@pytest.mark.parametrize("journey_seconds", [2e-4, 1e-3, 5e-3])
def test_a_second_round_of_one_chunk_for_each_slot_tells_the_items_from_their_journey(journey_seconds: float) -> None:
    sizer = ChunkSizer(2, None)

    sizes = simulate(sizer, slots=2, item_seconds=2e-4, journey_seconds=journey_seconds, total=10_000)

    assert sizes[0] == sizes[1] == 1
    assert 1 < sizes[2] == sizes[3] <= TARGET_SECONDS / (journey_seconds + 2e-4) + 1
    assert 0.9 * TARGET_SECONDS <= sizes[4] * 2e-4 <= 1.1 * TARGET_SECONDS


def test_a_probe_whose_journey_was_the_slower_one_makes_a_chunk_four_times_too_large_at_most() -> None:
    sizer = ChunkSizer(1, None)
    sizer.on_ended(1, sent=0.0, ended=0.009)  # of which it took a tenth by itself
    size = sizer.size(None)

    sizer.on_ended(size, sent=0.01, ended=0.01 + size * 0.0009)

    assert size == 5
    assert TARGET_SECONDS < sizer.size(None) * 0.0009 <= 4.1 * TARGET_SECONDS


def test_a_probe_that_ends_after_the_others_does_not_undo_what_they_told() -> None:
    sizer = ChunkSizer(2, None)
    sizer.on_ended(1, sent=0.0, ended=1e-3)
    sizer.on_ended(49, sent=1e-3, ended=2.1e-3)
    size = sizer.size(None)

    sizer.on_ended(1, sent=0.0, ended=3e-3)
    sizer.on_ended(49, sent=1e-3, ended=4e-3)

    assert size > 5_000
    assert sizer.size(None) == size


def test_a_probe_that_takes_its_time_is_no_rough_one() -> None:
    sizer = ChunkSizer(2, None)

    sizer.on_ended(1, sent=0.0, ended=0.02)

    assert sizer.can_send(7, 7)
    assert sizer.size(None) == 2


def test_slow_items_travel_alone() -> None:
    sizer = ChunkSizer(4, None)

    sizes = simulate(sizer, slots=4, item_seconds=0.2, journey_seconds=2e-4, total=100)

    assert set(sizes) == {1}


def test_a_chunk_takes_about_fifty_milliseconds() -> None:
    sizer = ChunkSizer(2, None)

    sizes = simulate(sizer, slots=2, item_seconds=0.001, journey_seconds=2e-4, total=5_000)

    middle = sizes[len(sizes) // 4 : len(sizes) // 2]
    assert all(0.5 * TARGET_SECONDS <= size * 0.001 <= 1.1 * TARGET_SECONDS for size in middle)


def test_chunks_shrink_near_the_end_but_not_to_nothing() -> None:
    sizer = ChunkSizer(2, None)
    sizer.on_ended(10, sent=0.0, ended=10 * 1e-4)

    assert sizer.size(None) == TARGET_SECONDS / 1e-4
    assert sizer.size(800) == 200
    assert sizer.size(8) == LEAST_SECONDS / 1e-4


def test_large_arguments_bound_a_chunk() -> None:
    sizer = ChunkSizer(2, None)
    sizer.on_ended(1, sent=0.0, ended=1e-5)

    sizer.on_sent(4, MAX_BYTES)

    assert sizer.size(None) == 4


def test_a_fixed_size_stays() -> None:
    sizer = ChunkSizer(2, 7)
    sizer.on_ended(7, sent=0.0, ended=1e-6)

    assert sizer.size(3) == 7


def test_tiny_fixed_chunks_may_be_many_on_their_way() -> None:
    sizer = ChunkSizer(2, 1)
    sizer.on_ended(1, sent=0.0, ended=1e-5)

    assert sizer.can_send(100, 100)
    assert not sizer.can_send(MAX_WINDOW, MAX_WINDOW)


def test_chunks_that_take_their_time_are_few_on_their_way() -> None:
    sizer = ChunkSizer(2, None)
    sizer.on_ended(1, sent=0.0, ended=1.0)

    assert sizer.can_send(7, 7)
    assert not sizer.can_send(8, 8)


def test_two_outcomes_that_arrive_together_do_not_blow_the_next_chunk_up() -> None:
    sizer = ChunkSizer(1, None)
    sizer.on_ended(1, sent=0.0, ended=0.05)

    sizer.on_ended(1, sent=0.0, ended=0.05)

    assert sizer.size(None) <= 32


@given(
    slots=st.integers(1, 64),
    item_seconds=st.floats(1e-7, 10.0),
    journey_seconds=st.floats(1e-5, 0.1),
    total=st.integers(0, 3000),
)
def test_every_map_ends_with_all_its_items_sent(
    slots: int, item_seconds: float, journey_seconds: float, total: int
) -> None:
    sizer = ChunkSizer(slots, None)

    sizes = simulate(sizer, slots, item_seconds, journey_seconds, total)

    assert sum(sizes) == total
    assert all(1 <= size <= MAX_ITEMS for size in sizes)


@pytest.mark.parametrize("slots", [0, -1])
def test_a_cluster_without_slots_yet_is_probed_as_if_it_had_one(slots: int) -> None:
    assert ChunkSizer(slots, None).can_send(0, 0)
