from __future__ import annotations

from pathlib import Path

import pytest

from cluster.store import sql


def test_statements_are_found_by_name_without_comments_or_semicolon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "__file__", str(tmp_path / "sql.py"))
    (tmp_path / "q.sql").write_text("-- About.\n\n-- name: one\n-- Why.\nSELECT 1;\n\n-- name: two\nSELECT\n    2;\n")

    assert sql.statements("q.sql") == {"one": "SELECT 1", "two": "SELECT\n    2"}


@pytest.mark.parametrize("text", ["-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n", "-- name: one\n-- Nothing.\n"])
def test_a_name_that_is_there_twice_or_empty_is_a_defect(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "__file__", str(tmp_path / "sql.py"))
    (tmp_path / "q.sql").write_text(text)

    with pytest.raises(ValueError, match="'one' twice, or without text"):
        sql.statements("q.sql")
