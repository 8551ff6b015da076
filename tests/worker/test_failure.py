from __future__ import annotations

import pickle

from cluster.core.records import Ending
from cluster.worker.failure import (
    MAX_EXCEPTION_BYTES,
    MAX_ITEM_TRACEBACK_CHARACTERS,
    MAX_MESSAGE_CHARACTERS,
    MAX_REASON_CHARACTERS,
    describe,
    pickle_exception,
)


class HasNoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class CannotBeRebuilt(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("one argument where two are needed")


class BecomesSomethingElse(Exception):
    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (list, ())


def test_type_bases_message_and_reason_are_told() -> None:
    certificate = describe(FileNotFoundError("gone\nreally"), Ending.RAISED, "raised")

    assert certificate.ending is Ending.RAISED
    assert certificate.reason == "raised FileNotFoundError: gone"
    assert certificate.message == "gone\nreally"
    assert certificate.error_types == (
        "builtins.FileNotFoundError", "builtins.OSError", "builtins.Exception", "builtins.BaseException",
    )  # fmt: skip


def test_the_chain_of_causes_is_in_the_traceback() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        text = describe(error, Ending.RAISED, "raised").traceback

    assert text.index("inner") < text.index("direct cause") < text.index("ValueError: outer")


def test_an_exception_whose_text_can_t_be_made_is_described_all_the_same() -> None:
    certificate = describe(HasNoText(), Ending.RAISED, "raised")

    assert certificate.reason == "raised HasNoText: <its text can't be made: RuntimeError>"
    assert "HasNoText" in certificate.traceback


def test_texts_are_bounded() -> None:
    certificate = describe(ValueError("x" * 1_000_000), Ending.RAISED, "raised", item=3)

    assert len(certificate.message) == MAX_MESSAGE_CHARACTERS
    assert len(certificate.reason) == MAX_REASON_CHARACTERS
    assert len(certificate.traceback) <= MAX_ITEM_TRACEBACK_CHARACTERS
    assert certificate.item == 3


def test_an_exception_that_survives_is_pickled() -> None:
    rebuilt = pickle.loads(pickle_exception(KeyError("k")))

    assert isinstance(rebuilt, KeyError)
    assert rebuilt.args == ("k",)


def test_one_that_can_t_be_pickled_rebuilt_or_carried_is_not() -> None:
    class Local(Exception):
        def __reduce__(self) -> str:
            raise SystemExit(1)

    assert pickle_exception(Local()) == b""
    assert pickle_exception(CannotBeRebuilt(1, 2)) == b""
    assert pickle_exception(BecomesSomethingElse()) == b""
    assert pickle_exception(ValueError("x" * (MAX_EXCEPTION_BYTES + 1))) == b""
