from __future__ import annotations

import signal
import threading
from functools import partial

from tests.mutants.trial import Crew, Patience, in_fork


def test_what_a_trial_comes_to_is_told_with_its_number() -> None:
    came: dict[int, int] = {}
    crew = Crew(2, came.__setitem__)

    for number in range(5):
        crew.put(number, partial(_come_to, 10 + number))
    crew.finish()

    assert came == {0: 10, 1: 11, 2: 12, 3: 13, 4: 14}


def test_one_that_waits_for_what_never_comes_is_ended() -> None:
    assert in_fork(_wait_for_ever) == -signal.SIGKILL


def _come_to(status: int, _: Patience) -> int:
    return status


def _wait_for_ever(patience: Patience) -> int:
    patience.seconds = 0.1
    threading.Event().wait()
    return 0
