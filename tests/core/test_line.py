from __future__ import annotations

import gc
import random
from collections import deque

from cluster.core.job import Job
from cluster.core.line import PIECE, Line
from tests.core.builders import job


def taken(line: Line, most: int) -> list[Job]:
    found: list[Job] = []
    while len(found) < most and (jobs := line.next_ones()):
        found.append(jobs.pop())
    return found


def test_jobs_come_out_as_they_went_in_across_all_pieces() -> None:
    line, jobs = Line(), [job(str(number)) for number in range(3 * PIECE + 5)]

    for one in jobs:
        line.append(one)

    assert len(line) == len(jobs)
    assert list(line) == jobs
    assert taken(line, 10 * PIECE) == jobs
    assert len(line) == 0
    assert line.next_ones() == []


def test_jobs_put_before_the_others_come_first_however_many() -> None:
    line, jobs = Line(), [job(str(number)) for number in range(3 * PIECE + 5)]
    line.append(jobs[-1])

    for one in reversed(jobs[:-1]):
        line.prepend(one)

    assert list(line) == jobs
    assert taken(line, 10 * PIECE) == jobs


def test_it_does_what_a_deque_does() -> None:
    dice = random.Random(1)
    line, plain = Line(), deque[Job]()
    for number in range(20_000):
        one = job(str(number))
        # Longer phases of one kind, so that it grows over many pieces and shrinks again.
        match dice.choices((0, 1, 2), (3, 1, 1) if number // 4000 % 2 == 0 else (1, 1, 4))[0]:
            case 0:
                line.append(one)
                plain.append(one)
            case 1:
                line.prepend(one)
                plain.appendleft(one)
            case _:
                assert taken(line, 1) == ([plain.popleft()] if plain else [])
        assert len(line) == len(plain)
    assert list(line) == list(plain)


def test_the_collector_does_not_walk_along_it() -> None:
    line = Line()
    for number in range(100 * PIECE):
        line.append(job(str(number)))

    gc.collect()

    looked_at = [line._front, line._rear, *(piece for piece in line._pieces if gc.is_tracked(piece))]
    assert sum(map(len, looked_at)) < PIECE


def test_of_what_is_put_first_no_more_than_two_pieces_lie_open_to_the_collector() -> None:
    line = Line()
    jobs = [job() for _ in range(2 * 512)]
    for one in jobs:
        line.prepend(one)

    assert (len(line._front), len(line._pieces)) == (512, 1)
    assert list(line) == jobs[::-1]
