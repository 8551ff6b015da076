"""What is new in a text that grows."""

from __future__ import annotations

from cluster.cli.following import Tail


def test_each_line_is_told_once_and_a_begun_one_only_at_the_end() -> None:
    tail = Tail()

    told = [
        tail.rest("one\ntw", is_whole=False),
        tail.rest("one\ntwo\nthr", is_whole=False),
        tail.rest("one\ntwo\nthree", is_whole=True),
    ]

    assert told == ["one\n", "two\n", "three"]


def test_a_text_that_lost_its_middle_goes_on_where_it_differs() -> None:
    tail = Tail()
    tail.rest("one\ntwo\n", is_whole=False)

    told = tail.rest("one\n[... 4 bytes cut ...]\nthree\n", is_whole=True)

    assert told == "[... 4 bytes cut ...]\nthree\n"


def test_a_shorter_text_tells_nothing_until_it_is_whole() -> None:
    tail = Tail()
    tail.rest("one\ntwo\n", is_whole=False)

    assert tail.rest("one\n", is_whole=False) == ""
