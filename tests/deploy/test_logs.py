from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cluster.deploy import logs as logs_module
from cluster.deploy.load import load_config
from cluster.deploy.logs import MAX_LINE_BYTES, LogLine, log_files, logs
from cluster.deploy.schema import Config
from cluster.errors import Refused


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "lab.yaml"
    file.write_text("name: lab\nworkers: [{name: one}]\nlog: {dir: logs}\n")
    (tmp_path / "logs").mkdir()
    return load_config(file, environment={})


def write(config: Config, part: str, text: str) -> None:
    with Path(config.log.dir, f"{part}.log").open("a") as file:
        file.write(text)


def test_the_last_lines_of_each_log_come_with_who_wrote_them(config: Config) -> None:
    write(config, "master", "a\nb\nc\n")
    write(config, "one", "d\n")

    found = list(logs(config, max_lines=2))

    assert found == [LogLine("master", "b"), LogLine("master", "c"), LogLine("one", "d")]


def test_one_part_s_log_can_be_asked_for(config: Config) -> None:
    write(config, "master", "a\n")
    write(config, "one", "d\n")

    assert list(logs(config, "one")) == [LogLine("one", "d")]
    assert list(log_files(config)) == ["master", "one", "keeper"]


def test_an_unknown_part_is_told_which_there_are(config: Config) -> None:
    with pytest.raises(Refused, match="has no part 'two'; it has master, one, keeper"):
        list(logs(config, "two"))


def test_following_tells_each_line_once_it_is_whole(config: Config) -> None:
    write(config, "one", "a\nhalf")
    lines = logs(config, "one", follow=True)
    assert next(lines).text == "a"

    write(config, "one", " and half\nb\n")

    assert [line.text for line in itertools.islice(lines, 2)] == ["half and half", "b"]


def test_following_goes_on_after_the_log_was_cut_or_made(config: Config) -> None:
    lines = logs(config, "one", follow=True)
    write(config, "one", "first\n")
    assert next(lines).text == "first"

    Path(config.log.dir, "one.log").write_text("new\n")

    assert next(lines).text == "new"


def test_no_lines_can_be_asked_for(config: Config) -> None:
    write(config, "one", "a\n")

    assert list(logs(config, max_lines=0)) == []


def test_a_long_log_is_not_read_whole(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "_BLOCK_BYTES", 64)
    write(config, "one", "".join(f"line {n}\n" for n in range(1000)))

    assert [line.text for line in logs(config, "one", max_lines=20)] == [f"line {n}" for n in range(980, 1000)]


def test_a_line_without_end_is_told_in_pieces_and_broken_text_is_no_hindrance(config: Config) -> None:
    with Path(config.log.dir, "one.log").open("wb") as file:
        file.write(b"\xff\n" + b"x" * (MAX_LINE_BYTES + 1))

    found = list(logs(config, "one"))

    assert [len(line.text) for line in found] == [1, MAX_LINE_BYTES + 1]
