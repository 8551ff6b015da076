"""How long the Hypothesis machines play: some seconds, or `HYPOTHESIS_PROFILE=long` by night."""

from __future__ import annotations

import os

from hypothesis import settings


def size(examples: int, steps: int = 50) -> settings:
    """So many examples of so many steps, unless the profile says otherwise (see `conftest.py`)."""
    if os.environ.get("HYPOTHESIS_PROFILE") == "long":
        return settings()
    return settings(max_examples=examples, stateful_step_count=steps)
