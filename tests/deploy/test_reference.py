from __future__ import annotations

from pathlib import Path

import pytest

from cluster.deploy.reference import page
from cluster.deploy.schema import Config

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def test_the_reference_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text() == page(), (
        "print it anew: python -m cluster.deploy.reference > docs/reference/configuration.md"
    )


@pytest.mark.parametrize("name", list(Config.model_fields))
def test_every_key_of_a_file_is_explained(name: str) -> None:
    assert f"| `{name}` |" in page()
    assert Config.model_fields[name].description
