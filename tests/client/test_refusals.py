from __future__ import annotations

import logging

import pytest

from cluster.client.refusals import UnreadRefusal, error_of
from cluster.errors import KeyConflict, MasterUnavailable, Refused
from cluster.wire.messages import Refusal


def test_each_kind_of_refusal_is_its_own_error() -> None:
    conflict = error_of(Refusal("j", "key", "taken", other="k"), "nightly")

    assert isinstance(conflict, KeyConflict)
    assert (conflict.key, conflict.job) == ("nightly", "k")
    assert isinstance(error_of(Refusal("j", "store", "disk full"), ""), MasterUnavailable)
    assert type(error_of(Refusal("j", "refused", "too many"), "")) is Refused


def test_a_refusal_that_nobody_read_is_logged_once_when_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    notice = UnreadRefusal("j-1", Refused("too many"))

    with caplog.at_level(logging.WARNING, "cluster"):
        notice.tell()
        del notice

    assert caplog.messages == ["job j-1 was refused, and nobody asked for its result: too many"]


def test_a_refusal_that_was_read_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    notice = UnreadRefusal("j-1", Refused("too many"))
    notice.is_read = True

    del notice

    assert caplog.messages == []
