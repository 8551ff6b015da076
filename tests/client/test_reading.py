"""Following a job's output, piece by piece."""

from __future__ import annotations

import threading

import pytest

from cluster.client.handle import Cluster
from cluster.core.printed import Place
from cluster.errors import MasterUnavailable
from tests.client.desk import DEADLINE_SECONDS, InlineDesk


def test_pieces_come_as_they_are_printed_and_end_with_the_job(c: Cluster, desk: InlineDesk) -> None:
    desk.gate.clear()
    job = c.submit(int)
    c.flush()
    following = job.logs(follow=True)

    desk.print(job.id, b"one ")
    first = next(following)
    desk.print(job.id, b"two ")
    second = next(following)
    desk.gate.set()

    assert (first, second, list(following), list(following)) == ("one ", "two ", [], [])
    assert [place for _, place in desk.reads[:3]] == [Place(0, 0), Place(0, 4), Place(0, 8)]


def test_characters_that_come_in_halves_are_put_together_and_broken_ones_replaced(c: Cluster, desk: InlineDesk) -> None:
    desk.gate.clear()
    job = c.submit(int)
    c.flush()
    following = job.logs(follow=True)
    heard: list[str] = []
    thread = threading.Thread(target=lambda: heard.append(next(following)))
    thread.start()

    desk.print(job.id, b"\xc3")
    desk.print(job.id, b"\xa9")
    thread.join(DEADLINE_SECONDS)
    desk.print(job.id, b"\xff\x00\xe2\x82")
    rest = [next(following)]
    desk.gate.set()

    assert (heard, rest + list(following)) == (["é"], ["\ufffd\x00", "\ufffd"])


def test_a_closed_handle_ends_it_with_a_reason(c: Cluster, desk: InlineDesk) -> None:
    desk.gate.clear()
    job = c.submit(int)
    c.flush()
    following = job.logs(follow=True)
    desk.print(job.id, b"one")
    assert next(following) == "one"

    desk.gate.set()
    c.close()

    with pytest.raises(MasterUnavailable, match="handle is closed"):
        next(following)
