from __future__ import annotations

from tests.core.machine import BoardMachine
from tests.machines import size

TestBoardMachine = BoardMachine.TestCase
TestBoardMachine.settings = size(200)
