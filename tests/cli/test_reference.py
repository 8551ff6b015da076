"""The reference page says what the commands say."""

from __future__ import annotations

from cluster.cli.reference import reference
from tests.project import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()

    assert page == reference(), "make it anew: python -m cluster.cli.reference > docs/reference/cli.md"


def test_every_command_is_on_the_page() -> None:
    page = reference()

    for command in ("up", "down", "status", "logs", "submit", "master", "worker", "worker drain", "job explain", "dead purge", "queue pause"):  # fmt: skip
        assert f"## `cluster {command} [OPTIONS]" in page
