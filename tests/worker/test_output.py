from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cluster.worker import memory_file, output
from cluster.worker.output import Flood


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = memory_file.make_file()
    yield descriptor
    os.close(descriptor)


def test_what_was_written_is_taken_and_the_file_is_empty(file: int) -> None:
    os.write(file, b"one\ntwo\n")

    assert output.take(file, output.size_of(file), 1000) == b"one\ntwo\n"
    assert output.size_of(file) == 0


def test_writing_goes_on_at_the_beginning_after_taking(file: int) -> None:
    os.write(file, b"a" * 100)
    output.take(file, 100, 1000)

    os.write(file, b"b")

    assert output.take(file, output.size_of(file), 1000) == b"b"


def test_a_long_text_keeps_its_ends_and_says_what_is_cut(file: int) -> None:
    os.write(file, b"a" * 500 + b"b" * 500)

    text = output.take(file, 1000, 100)

    assert text == b"a" * 25 + b"\n[... 900 bytes cut ...]\n" + b"b" * 75


def test_a_small_file_is_no_flood(file: int) -> None:
    os.write(file, b"calm")
    flood = Flood()

    flood.relieve(file, 100)

    assert flood.taken == 0
    assert output.size_of(file) == 4


def test_a_flood_is_taken_away_and_its_ends_are_kept(file: int) -> None:
    flood = Flood()
    os.write(file, b"first" + b"x" * output.MAX_FILE_BYTES)
    flood.relieve(file, 100)
    os.write(file, b"y" * (output.MAX_FILE_BYTES + 1))
    flood.relieve(file, 100)
    os.write(file, b"the end")

    text = flood.complete(output.take(file, output.size_of(file), 100), 100)

    total = 5 + output.MAX_FILE_BYTES + output.MAX_FILE_BYTES + 1 + 7
    assert text.startswith(b"first" + b"x" * 20 + b"\n[... %d bytes cut ...]\n" % (total - 100))
    assert text.endswith(b"y" * 68 + b"the end")


def test_without_a_flood_the_rest_is_all() -> None:
    assert Flood().complete(b"all", 100) == b"all"


def test_the_tail_is_the_last_lines_as_text() -> None:
    lines = b"\n".join(b"line %d" % number for number in range(100))

    tail = output.tail_text(lines + b"\n\xff\xfe")

    assert tail.splitlines()[0] == "line 81"
    assert tail.endswith("line 99\n\ufffd\ufffd")
    assert len(output.tail_text(b"z" * 100_000)) == output.TAIL_BYTES
