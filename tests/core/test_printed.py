from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.core.printed import after, join, mark, runs_of, shares, text_of

TEXT = bytes(range(256)) * 4
# Of 1024 bytes the first 25 and the last 75.
CUT = join(TEXT[:25], 924, TEXT[-75:])


def test_a_whole_text_is_one_run() -> None:
    assert runs_of(b"one\ntwo\n") == ((0, b"one\ntwo\n"),)


def test_a_text_that_lost_its_middle_is_two_runs_with_their_places() -> None:
    assert runs_of(CUT) == ((0, TEXT[:25]), (949, TEXT[-75:]))
    assert text_of(runs_of(CUT)) == CUT


def test_of_a_long_text_a_quarter_of_what_is_kept_is_its_beginning_and_not_a_byte_is_lost_by_rounding() -> None:
    assert shares(100) == (25, 75)
    assert shares(7) == (1, 6)


def test_a_mark_that_a_job_printed_itself_cuts_nothing() -> None:
    text = b"a" * 10 + mark(7) + b"b" * 1000

    assert runs_of(text) == ((0, text),)


def test_reading_goes_on_where_it_left_off() -> None:
    assert after(((0, b"abc"),), 1) == (b"bc", 3)
    assert after(((0, b"abc"),), 3) == (b"", 3)
    assert after((), 5) == (b"", 5)


def test_what_is_missing_is_marked_as_far_as_the_reader_has_missed_it() -> None:
    runs = runs_of(CUT)

    assert after(runs, 20) == (TEXT[20:25] + mark(924) + TEXT[-75:], 1024)
    assert after(runs, 900) == (mark(49) + TEXT[-75:], 1024)
    assert after(runs, 1000) == (TEXT[1000:], 1024)


def test_a_piece_is_no_longer_than_asked_for_wherever_it_begins() -> None:
    assert after(runs_of(CUT), 949, 10) == (TEXT[949:959], 959)
    assert after(runs_of(CUT), 20, 10) == (TEXT[20:25] + mark(924) + TEXT[949:954], 954)


@given(st.integers(0, 1100), st.integers(1, 50))
def test_piece_by_piece_comes_to_the_same(start: int, limit: int) -> None:
    runs = runs_of(CUT)
    pieces, seen = [], start

    while True:
        piece, place = after(runs, seen, limit)
        if not piece:
            break
        assert place > seen
        pieces.append(piece)
        seen = place

    assert (b"".join(pieces), max(seen, start)) == after(runs, start)
