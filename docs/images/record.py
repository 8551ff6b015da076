"""Records `cluster demo` in a terminal of 80 columns as docs/images/demo.svg: the live view near its end.

pip install pyte && python docs/images/record.py
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS, LINES = 80, 24
SHOWN_FROM = 0.5  # of the jobs: by then something has been killed; later pictures replace earlier ones


def main() -> None:
    """Run the demo, keep the last picture before its live view goes, and write it."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    demo = subprocess.Popen(
        [sys.executable, "-m", "cluster", "demo"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    picture: list[Text] = []
    while chunk := _read(ours):
        stream.feed(chunk)
        counters = re.search(r"done ([\d,]+) of ([\d,]+)", "\n".join(screen.display))
        if counters is None:
            continue
        done, total = (int(number.replace(",", "")) for number in counters.groups())
        if SHOWN_FROM * total <= done < total and any(
            re.search(r"^ (one|two) \d.*\.py", row) for row in screen.display
        ):
            picture = [_line(screen, row) for row in range(LINES)]
    if demo.wait() != 0 or not picture:
        sys.exit("the demo failed, or its live view was not seen")
    while picture and not picture[-1].plain.strip():
        picture.pop()
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"))  # noqa: SIM115 - as long as we live
    console.print("[bold]$ make demo[/]")
    library = sysconfig.get_path("stdlib")
    for line in picture:
        # Where this machine keeps its library is nobody's business.
        shown = Text("/usr/lib/" + Path(library).name) if line.plain.strip() == library else line
        console.print(shown, no_wrap=True)
    svg = console.export_svg(title="cluster demo")
    # The fonts that rich names are on somebody else's server; a viewer's own monospace font does.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "monospace")
    Path(__file__).with_name("demo.svg").write_text(svg)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how a pty ends
        return b""


def _line(screen: pyte.Screen, row: int) -> Text:
    text = Text()
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        color = None if cell.fg == "default" else (f"#{cell.fg}" if re.fullmatch("[0-9a-f]{6}", cell.fg) else cell.fg)
        color = {"brown": "yellow"}.get(color or "", color)
        text.append(cell.data, Style(color=color, bold=cell.bold))
    return text


if __name__ == "__main__":
    main()
