"""A job's output, read from where somebody left off: live, stored, and on the way from one to the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from msgspec import structs

from cluster.core.printed import Piece, Place, join, mark
from cluster.core.records import Ending, Options, RetryRule
from cluster.errors import UnknownJob
from cluster.wire.messages import Progress
from tests.core.builders import WORKER, failure, spec, success
from tests.master.rig import DEADLINE_SECONDS, HandStore, Rig

BEGINNING = Place()
AGAIN = Options(retry=RetryRule(max_retries=2, backoff=0.0, jitter=0.0))


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def tell(rig: Rig, fence: int, text: bytes, offset: int) -> None:
    rig.work.progress(WORKER, [Progress(fence, 0.0, 0.0, output=text, offset=offset)])


def read(rig: Rig, place: Place = BEGINNING, job: str = "a") -> Piece:
    return rig.jobs.read_output(job, place, 0.0)


def read_all(rig: Rig, place: Place = BEGINNING) -> tuple[bytes, bool]:
    """What there is now, in as many pieces as it comes, and whether that is the end."""
    pieces: list[bytes] = []
    while True:
        piece = read(rig, place)
        pieces.append(piece.text)
        if piece.is_over or not piece.text:
            return b"".join(pieces), piece.is_over
        place = piece.place


def test_of_a_job_that_waits_there_is_nothing_yet(rig: Rig) -> None:
    rig.submit(spec("a"))

    assert read_all(rig) == (b"", False)


def test_a_running_job_is_read_as_it_prints_and_the_rest_comes_with_its_end(rig: Rig) -> None:
    rig.submit(spec("a"))
    (lease,) = rig.poll()
    tell(rig, lease.fence, b"one\n", 0)
    first = read(rig)
    tell(rig, lease.fence, b"two\n", 4)
    second = read(rig, first.place)
    rig.report(structs.replace(success(lease.fence), output=b"one\ntwo\nthree\n"))

    assert (first.text, second.text) == (b"one\n", b"two\n")
    assert read_all(rig, second.place) == (b"three\n", True)
    assert read_all(rig) == (b"one\ntwo\nthree\n", True)


def test_attempts_follow_one_another_and_each_is_read_to_its_end(rig: Rig) -> None:
    rig.submit(spec("a", AGAIN))
    (first,) = rig.poll()
    tell(rig, first.fence, b"first ", 0)
    begun = read(rig)
    rig.report(structs.replace(failure(first.fence, Ending.RAISED), output=b"first fails "))
    (second,) = rig.poll()
    tell(rig, second.fence, b"second ", 0)

    assert begun.text == b"first "
    assert read_all(rig, begun.place) == (b"fails second ", False)
    assert rig.jobs.output("a") == b"first fails second "

    rig.report(structs.replace(success(second.fence), output=b"second succeeds"))
    assert read_all(rig, begun.place) == (b"fails second succeeds", True)
    assert rig.jobs.output("a") == b"first fails second succeeds"


def test_what_a_flood_lost_is_marked_as_far_as_the_reader_missed_it(rig: Rig) -> None:
    rig.submit(spec("a"))
    (lease,) = rig.poll()
    tell(rig, lease.fence, b"x" * 30, 0)
    begun = read(rig)
    rig.report(structs.replace(success(lease.fence), output=join(b"x" * 25, 900, b"y" * 75)))

    assert begun.text == b"x" * 30
    assert read_all(rig, begun.place) == (mark(895) + b"y" * 75, True)


def test_what_a_cancelled_attempt_said_is_read_and_that_is_the_end(rig: Rig) -> None:
    rig.submit(spec("a"))
    (lease,) = rig.poll()
    tell(rig, lease.fence, b"last words", 0)

    rig.jobs.cancel(["a"], DEADLINE_SECONDS)

    assert read_all(rig) == (b"last words", True)


def test_what_a_lost_worker_s_attempt_said_comes_before_the_next_one_s(rig: Rig) -> None:
    rig.submit(spec("a"))
    (lost,) = rig.poll()
    tell(rig, lost.fence, b"lost ", 0)
    rig.tick(60.0)
    (found,) = rig.poll(name="other#1")
    rig.report(structs.replace(success(found.fence), output=b"found"), name="other#1")

    assert read_all(rig) == (b"lost found", True)
    assert rig.jobs.output("a") == b"lost found"


def test_another_run_of_the_same_job_is_read_on(rig: Rig) -> None:
    rig.submit(spec("a", Options(crash_limit=0)))
    (lease,) = rig.poll()
    rig.report(structs.replace(failure(lease.fence), output=b"one "))
    ended = read(rig)
    rig.jobs.requeue(["a"])
    (again,) = rig.poll()
    tell(rig, again.fence, b"two ", 0)

    assert (ended.text, ended.is_over) == (b"one ", True)
    assert read_all(rig, ended.place) == (b"two ", False)


def test_who_waits_is_given_what_comes(rig: Rig) -> None:
    rig.submit(spec("a"))
    (lease,) = rig.poll()
    heard: list[Piece] = []
    thread = threading.Thread(target=lambda: heard.append(rig.jobs.read_output("a", Place(), DEADLINE_SECONDS)))
    thread.start()

    tell(rig, lease.fence, b"at last", 0)

    thread.join(DEADLINE_SECONDS)
    assert [piece.text for piece in heard] == [b"at last"]


def test_a_silent_job_s_end_ends_the_waiting(rig: Rig) -> None:
    rig.submit(spec("a"))
    (lease,) = rig.poll()
    heard: list[Piece] = []
    thread = threading.Thread(target=lambda: heard.append(rig.jobs.read_output("a", Place(), DEADLINE_SECONDS)))
    thread.start()

    rig.report(success(lease.fence))

    thread.join(DEADLINE_SECONDS / 2)
    assert [(piece.text, piece.is_over) for piece in heard] == [(b"", True)]


def test_a_report_is_read_only_once_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.master.reading.MAX_COMMIT_SECONDS", 0.05)
    store = HandStore()
    with Rig(store) as rig:
        rig.master.committer.start()
        rig.submit(spec("a"))
        rig.notes.wait("accepted")
        (lease,) = rig.poll()
        store.gate.clear()
        rig.report(structs.replace(success(lease.fence), output=b"done"))

        early = read(rig)
        store.gate.set()
        rig.notes.wait("ended")

        assert (early.text, early.is_over) == (b"", False)
        assert read_all(rig, early.place) == (b"done", True)


def test_an_unknown_job_is_an_error(rig: Rig) -> None:
    with pytest.raises(UnknownJob):
        read(rig, job="nobody")


def test_whoever_submitted_a_job_with_echo_is_told_that_it_printed_and_nobody_else(rig: Rig) -> None:
    rig.submit(spec("a", Options(echo=True)), spec("b"))
    leases = rig.poll(2)

    for lease in leases:
        tell(rig, lease.fence, b"text", 0)

    assert rig.notes.of("printed") == ["a"]
    assert rig.notes.of("progressed") == []
