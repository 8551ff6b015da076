from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster.client import progress_bar
from cluster.client.batch import BatchProgress
from cluster.client.handle import Cluster


class Film:
    """A batch that is a little further each time somebody looks."""

    def __init__(self, *pictures: BatchProgress) -> None:
        self.pictures = list(pictures)

    def progress(self) -> BatchProgress:
        return self.pictures[0]

    def wait_changed(self, timeout: float) -> bool:
        if len(self.pictures) > 1:
            del self.pictures[0]
        return len(self.pictures) == 1


START = BatchProgress(done=0, failed=0, total=None, submitted=0, seconds=0.0)
MIDDLE = BatchProgress(done=1500, failed=0, total=None, submitted=2000, seconds=1.0)
END = BatchProgress(done=3000, failed=2, total=3000, submitted=3000, seconds=2.0)


def test_a_line_tells_how_far_it_is() -> None:
    assert progress_bar.line("fit", START) == "fit: 0/? items, 0/s, 0.0 s"
    assert progress_bar.line("fit", END) == "fit: 3,000/3,000 items, 2 failed, 1,500/s, 2.0 s"


def test_without_a_terminal_it_writes_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress_bar.show_progress(Film(START, MIDDLE, END), "fit")

    out, err = capsys.readouterr()
    assert out == ""
    assert err == "fit: 1,500/? items, 1,500/s, 1.0 s\nfit: 3,000/3,000 items, 2 failed, 1,500/s, 2.0 s\n"


def test_on_a_terminal_it_draws_a_bar() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)

    progress_bar._draw(Film(START, MIDDLE, END), "fit[/]", console)

    shown = screen.getvalue()
    assert "fit[/]" in shown, "a name is no markup"
    assert "3000/3000" in shown
    assert "2 failed" in shown
    assert "1,500/s" in shown


def test_a_map_shows_its_progress_and_is_quiet_by_itself(c: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(c.map(abs, range(5))) == list(range(5))
    assert capsys.readouterr().err == ""

    assert list(c.map(abs, range(5), progress=True, name="sizes")) == list(range(5))

    assert capsys.readouterr().err.startswith("sizes: 5/5 items, ")
