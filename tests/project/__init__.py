"""Tests of the project as a whole: floors, shape, public names, documentation, examples."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
