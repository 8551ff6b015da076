"""Folders that nobody else can put things into."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cluster.errors import Refused
from cluster.wire.address import Address
from cluster.wire.folders import EVERYBODY, make_private, require_unshared
from cluster.wire.listener import ClusterListener


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_a_folder_and_its_missing_parents_are_ours_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_private(tmp_path / "a" / "b")
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)

    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o700, 0o700]


@pytest.mark.parametrize(
    ("mode", "writers", "is_refused"),
    [
        (0o755, 0o022, False), (0o775, 0o022, True), (0o777, 0o022, True), (0o1777, 0o022, False),
        (0o775, EVERYBODY, False), (0o777, EVERYBODY, True),
    ],
)  # fmt: skip
def test_a_folder_is_refused_if_those_in_question_can_write(
    tmp_path: Path, mode: int, writers: int, *, is_refused: bool
) -> None:
    tmp_path.chmod(mode)

    if not is_refused:
        require_unshared(tmp_path, writers)
        return
    with pytest.raises(Refused, match=f"run `chmod go-w {tmp_path}`"):
        require_unshared(tmp_path, writers)


def test_another_user_s_folder_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)

    with pytest.raises(Refused, match=f"run `sudo chown {os.geteuid()} {tmp_path}`"):
        require_unshared(tmp_path)


def test_nobody_listens_in_a_folder_where_anybody_could_replace_the_socket(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(Refused, match="chmod go-w"):
        ClusterListener(Address(path=str(tmp_path / "master.sock")))

    assert list(tmp_path.iterdir()) == []


def test_a_socket_in_a_folder_like_tmp_is_ours_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    listener = ClusterListener(Address(path=str(tmp_path / "master.sock")))
    try:
        assert stat.S_IMODE((tmp_path / "master.sock").stat().st_mode) == 0o600
    finally:
        listener.close()
