from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import stat
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import msgspec
import pytest

from cluster.errors import ClusterError
from cluster.wire.keys import KEY_BYTES, Role, Secret, load_key, make_keys


def test_each_role_gets_a_key_of_its_own_that_only_its_owner_reads(tmp_path: Path) -> None:
    paths = make_keys(tmp_path / "deep" / "keys")

    assert {role: path.name for role, path in paths.items()} == {role: f"{role}.key" for role in Role}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths.values())
    assert stat.S_IMODE((tmp_path / "deep" / "keys").stat().st_mode) == 0o700
    assert len({load_key(path).secrets()[0].reveal() for path in paths.values()}) == len(Role)
    assert sorted(path.name for path in (tmp_path / "deep" / "keys").iterdir()) == [
        "admin.key",
        "client.key",
        "worker.key",
    ]


def test_keys_that_are_there_are_kept(tmp_path: Path) -> None:
    before = {role: load_key(path).secrets()[0].reveal() for role, path in make_keys(tmp_path).items()}

    after = {role: load_key(path).secrets()[0].reveal() for role, path in make_keys(tmp_path).items()}

    assert after == before


def test_starts_at_the_same_moment_agree_on_the_keys(tmp_path: Path) -> None:
    found: list[bytes] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        found.append(load_key(make_keys(tmp_path)[Role.CLIENT]).secrets()[0].reveal())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_key_others_could_read_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    path = make_keys(tmp_path)[Role.CLIENT]
    path.chmod(0o640)

    with pytest.raises(ClusterError, match=f"chmod 600 {path}"):
        load_key(path)


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * (KEY_BYTES - 1) + "\n"])
def test_a_short_or_empty_key_is_refused(tmp_path: Path, text: str) -> None:  # row A35
    path = tmp_path / "client.key"
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(ClusterError, match="too short"):
        load_key(path)


def test_what_is_no_key_is_refused_without_being_quoted(tmp_path: Path) -> None:
    path = tmp_path / "client.key"
    path.write_text("hunter2 is my password")
    path.chmod(0o600)

    with pytest.raises(ClusterError, match="not hexadecimal") as refused:
        load_key(path)

    assert "hunter2" not in str(refused.value)


def test_a_missing_key_a_folder_and_a_link_are_refused_with_a_sentence(tmp_path: Path) -> None:
    real = make_keys(tmp_path / "keys")[Role.CLIENT]
    link = tmp_path / "link.key"
    link.symlink_to(real)

    for path, part in ((tmp_path / "none.key", "no key"), (tmp_path, "no plain file"), (link, "symbolic link")):
        with pytest.raises(ClusterError, match=part):
            load_key(path)


def test_another_user_s_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_keys(tmp_path)[Role.CLIENT]
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    with pytest.raises(ClusterError, match="belongs to user"):
        load_key(path)


def test_a_secret_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(b"canary-canary-canary-canary-canary")

    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r %s", secret, secret, [secret])

    assert "canary" not in caplog.text + str(secret) + repr(secret) + f"{secret}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)


@dataclass
class Holder:
    secret: Secret


def raise_with_it_in_hand(secret: Secret) -> None:
    held = Holder(secret)
    raise ValueError(f"{held} {secret!s:>20}")


def test_no_way_of_writing_things_down_writes_a_secret() -> None:
    secret = Secret(b"canary-canary-canary-canary-canary")

    with pytest.raises(ValueError, match="Secret") as caught:
        raise_with_it_in_hand(secret)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    told = "".join(trace.format())

    assert "held" in told
    assert "canary" not in told
    refusals: list[Callable[[], object]] = [
        lambda: json.dumps(secret), lambda: msgspec.json.encode(secret), lambda: msgspec.msgpack.encode([secret]),
        lambda: copy.copy(secret), lambda: copy.deepcopy([secret]), secret.__getstate__, lambda: vars(secret),
        lambda: bytes(secret), lambda: cloudpickle.dumps(lambda: secret),  # type: ignore[call-overload]
    ]  # fmt: skip
    for refusal in refusals:
        with pytest.raises(TypeError) as refused:
            refusal()
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_keys_in_a_folder_that_others_can_write_into_are_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "keys"
    make_keys(folder)
    folder.chmod(mode)

    with pytest.raises(ClusterError, match=f"run `chmod go-w {folder}`"):
        make_keys(folder)


def test_a_secret_in_hand_is_long_enough() -> None:
    with pytest.raises(ClusterError, match="too short"):
        Secret(b"short")
