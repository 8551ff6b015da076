from __future__ import annotations

from msgspec import structs

from cluster.core.records import FunctionBlob
from cluster.worker.blobs import MAX_BLOBS, PICKLER, PYTHON, Blobs, mismatch
from tests.worker.recording_desk import RecordingDesk

BLOB = FunctionBlob(b"d", b"body", PYTHON, PICKLER, "f")


class CountingDesk(RecordingDesk):
    fetched = 0

    def fetch_function(self, digest: bytes) -> FunctionBlob:
        self.fetched += 1
        return structs.replace(BLOB, digest=digest)


def test_a_function_is_fetched_once() -> None:
    desk = CountingDesk()
    blobs = Blobs(desk)

    assert [blobs.get(b"d").digest for _ in range(3)] == [b"d"] * 3
    assert desk.fetched == 1


def test_the_oldest_is_dropped_at_the_bound() -> None:
    desk = CountingDesk()
    blobs = Blobs(desk)

    for number in range(MAX_BLOBS + 1):
        blobs.get(b"%d" % number)
    blobs.get(b"%d" % MAX_BLOBS)
    blobs.get(b"0")

    assert desk.fetched == MAX_BLOBS + 2


def test_another_python_is_refused_naming_both() -> None:
    reason = mismatch(structs.replace(BLOB, python="2.7"))

    assert reason is not None
    assert "2.7" in reason
    assert PYTHON in reason


def test_another_cloudpickle_is_refused_naming_both() -> None:
    reason = mismatch(structs.replace(BLOB, pickler="0.1"))

    assert reason is not None
    assert "0.1" in reason
    assert PICKLER in reason


def test_our_own_is_not_refused() -> None:
    assert mismatch(BLOB) is None
