"""Commands run in this process, and what they told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.cli import main


@dataclass(frozen=True)
class Told:
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Call = Callable[..., Told]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["cluster", *arguments])
        capsys.readouterr()
        status = 0
        try:
            main.main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))
        told = capsys.readouterr()
        return Told(status, told.out, told.err)

    return run
