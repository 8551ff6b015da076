"""The demo's view, without a cluster: what it draws from a snapshot."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from cluster.cli.demo_run import Slot, Snapshot
from cluster.cli.demo_tasks import FunctionReport
from cluster.cli.demo_view import MAX_SLOT_LINES, View, drawing, print_functions

WIDTH = 80


def drawn(snapshot: Snapshot) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(drawing(snapshot))
    return capture.get()


def test_the_view_names_process_job_and_cost_of_each_slot_and_fits_a_terminal() -> None:
    slot = Slot(
        worker="one", number=1, pid=4242, job="email/" + "long" * 40 + ".py", memory=31 * 1024 * 1024, cpu_percent=97.6
    )
    snapshot = Snapshot(total=200, done=50, rerun=3, lost=0, seconds=2.0, slots=(slot,))

    text = drawn(snapshot)

    assert max(map(len, text.splitlines())) <= WIDTH
    for part in ("4242", "email/long", "98 %", "31 MiB", "25 %", "done 50 of 200", "re-run 3", "lost 0", "25 jobs/s"):
        assert part in text


def test_many_slots_are_cut_to_a_screen() -> None:
    slots = tuple(Slot(worker="one", number=number, pid=1000 + number) for number in range(64))

    text = drawn(Snapshot(total=1, slots=slots))

    assert f"and {64 - MAX_SLOT_LINES} more" in text
    assert len(text.splitlines()) < 15


def test_an_empty_run_is_drawn_without_dividing_by_it() -> None:
    text = drawn(Snapshot(total=0))

    assert "0 of 0" in text


def test_without_a_terminal_a_run_is_told_in_a_few_plain_lines() -> None:
    output = io.StringIO()
    view = View(Console(file=output, width=WIDTH, force_terminal=False))

    with view:
        for done in range(1001):
            view.show(Snapshot(total=1000, done=done, seconds=1.0))
        view.say("that was all")

    lines = output.getvalue().splitlines()
    counted = [line.split(" of ")[0].strip() for line in lines[:-1]]
    assert counted == ["done 0", "done 250", "done 500", "done 750", "done 1,000"]
    assert lines[-1].strip() == "that was all"


def test_functions_are_listed_with_their_place_below_the_root() -> None:
    output = io.StringIO()
    root = Path("lib", "python")
    functions = [FunctionReport("Parser.parse[0]", str(root / "re" / "_parser.py"), 516, 122)]

    print_functions(Console(file=output, width=WIDTH, force_terminal=False), functions, root)

    line = output.getvalue().splitlines()[-1]
    assert line.split() == ["122", "Parser.parse[0]", "re/_parser.py:516"]
