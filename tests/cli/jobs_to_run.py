"""Functions that the commands under test submit by name."""

from __future__ import annotations

import time
from pathlib import Path


def fail(reason: str) -> None:
    raise ValueError(reason)


def speak(text: str) -> str:
    print(text)
    return text.upper()


def wait_for_file(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)  # sleeps because the test decides when the job may end
    return "released"


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


def opaque() -> Opaque:
    return Opaque()
