from __future__ import annotations

import pickle

import pytest

from cluster.errors import ClusterError
from cluster.wire import dependency


def test_a_given_result_is_unpickled_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dependency.current, "j1", pickle.dumps([1, 2]))

    first, second = dependency.result_of("j1"), dependency.result_of("j1")

    assert first == [1, 2]
    assert first is not second


def test_elsewhere_the_error_says_what_to_write() -> None:
    with pytest.raises(ClusterError, match=r"c\.job\('j9'\)\.result\(\)"):
        dependency.result_of("j9")


def test_this_process_is_not_inside_a_job() -> None:
    assert dependency.inside_job is False
