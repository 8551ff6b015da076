from __future__ import annotations

import pytest

from cluster.core.records import Certificate, Ending


@pytest.mark.parametrize(
    ("worker", "host", "pid", "place"),
    [
        ("", "here", 7, ""),
        ("w#1", "", 0, "w#1"),
        ("w#1", "here", 0, "w#1 on here"),
        ("w#1", "", 7, "w#1, pid 7"),
        ("w#1", "here", 7, "w#1 on here, pid 7"),
    ],
)
def test_a_certificate_says_as_much_of_the_place_as_is_known(worker: str, host: str, pid: int, place: str) -> None:
    certificate = Certificate(ending=Ending.CRASHED, reason="it died", worker=worker, host=host, pid=pid)

    assert certificate.place == place
