"""Which cluster a command is about: the order of the places, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli.find import Found, Where, locate
from cluster.errors import Refused
from cluster.wire.keys import Role
from cluster.wire.tls import TlsFiles
from tests.cli.rig import Call

OVER_THERE = "tcp://127.0.0.1:7777"


@pytest.fixture(autouse=True)
def _nothing_is_named(call_alone: Call) -> None:
    """The fixture empties the environment and changes to an empty folder."""


def configuration(path: Path, port: int) -> Path:
    path.write_text(f"name: {path.stem}\nmaster: {{bind: 'tcp://127.0.0.1:{port}', keys: {path.stem}-keys}}\n")
    return path


def test_an_address_goes_with_the_key_beside_it() -> None:
    found = locate(Where(address=OVER_THERE, authkey_file=Path("here.key")), Role.CLIENT)

    assert found == Found(OVER_THERE, Path("here.key"))


def test_an_address_without_a_key_says_how_to_name_one() -> None:
    with pytest.raises(Refused, match=r"--authkey-file KEYS/admin\.key"):
        locate(Where(address=OVER_THERE), Role.ADMIN)


def test_address_and_file_together_are_refused() -> None:
    with pytest.raises(Refused, match="write the one that you mean"):
        locate(Where(address=OVER_THERE, file=Path("x.yaml")), Role.CLIENT)


def test_a_file_s_address_goes_with_the_role_s_key(tmp_path: Path) -> None:
    file = configuration(tmp_path / "lab.yaml", 7701)

    keys = {role: locate(Where(file=file), role).key for role in (Role.CLIENT, Role.ADMIN)}

    assert locate(Where(file=file), Role.CLIENT).address == "tcp://127.0.0.1:7701"
    assert keys == {role: tmp_path / "lab-keys" / f"{role}.key" for role in keys}


def test_a_file_s_certificate_is_its_own_whatever_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("CA", "CERT", "KEY"):
        monkeypatch.setenv(f"CLUSTER_TLS_{part}", "elsewhere.pem")
    plain = configuration(tmp_path / "plain.yaml", 7701)
    secure = tmp_path / "secure.yaml"
    secure.write_text("name: secure\nmaster: {tls: auto}\n")

    found = {role: locate(Where(file=secure), role).tls for role in (Role.CLIENT, Role.ADMIN)}

    made = tmp_path / "state" / "tls"
    assert found == {
        role: TlsFiles(made / "ca.pem", made / f"{role}-local.pem", made / f"{role}-local.key") for role in found
    }
    assert locate(Where(file=plain), Role.CLIENT).tls is None
    written = Where(file=secure, tls_ca=Path("a"), tls_cert=Path("b"), tls_key=Path("c"))
    assert locate(written, Role.CLIENT).tls == TlsFiles(Path("a"), Path("b"), Path("c"))


def test_at_an_address_the_environment_stands_for_each_file_that_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLUSTER_ADDRESS", OVER_THERE)
    monkeypatch.setenv("CLUSTER_AUTHKEY_FILE", "client.key")
    monkeypatch.setenv("CLUSTER_TLS_CA", "ca.pem")
    operator = Where(tls_cert=Path("admin-olga.pem"), tls_key=Path("admin-olga.key"))

    found = locate(operator, Role.ADMIN).tls

    assert found == TlsFiles(Path("ca.pem"), Path("admin-olga.pem"), Path("admin-olga.key"))
    with pytest.raises(Refused, match="there is no --tls-key"):
        locate(Where(tls_cert=Path("admin-olga.pem")), Role.ADMIN)


def test_what_is_written_goes_before_the_environment_and_that_before_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = configuration(tmp_path / "written.yaml", 7701)
    named = configuration(tmp_path / "named.yaml", 7702)
    configuration(tmp_path / "cluster.yaml", 7703)

    told = [locate(Where(), Role.CLIENT).address]
    monkeypatch.setenv("CLUSTER_FILE", str(named))
    told.append(locate(Where(), Role.CLIENT).address)
    monkeypatch.setenv("CLUSTER_ADDRESS", OVER_THERE)
    monkeypatch.setenv("CLUSTER_AUTHKEY_FILE", "client.key")
    told.append(locate(Where(), Role.CLIENT).address)
    told.append(locate(Where(file=written), Role.CLIENT).address)

    assert told == [f"tcp://127.0.0.1:{port}" for port in (7703, 7702, 7777, 7701)]


def test_the_environment_s_client_key_leads_to_the_admin_key_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTER_AUTHKEY_FILE", str(tmp_path / "client.key"))

    before = locate(Where(address=OVER_THERE), Role.ADMIN).key
    (tmp_path / "admin.key").touch()
    after = locate(Where(address=OVER_THERE), Role.ADMIN).key

    assert (before, after) == (tmp_path / "client.key", tmp_path / "admin.key")


def test_nothing_at_all_is_a_mistake_that_names_every_way(call_alone: Call) -> None:
    told = call_alone("job", "list")

    assert (told.status, told.out) == (2, "")
    for way in ("--file FILE", "--address", "CLUSTER_FILE", "CLUSTER_ADDRESS", "cluster.yaml"):
        assert way in told.err


@pytest.mark.parametrize("command", ["up", "down", "status", "logs"])
def test_an_address_is_no_configuration_and_what_needs_one_says_so(
    command: str, call_alone: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = call_alone(command)
    monkeypatch.setenv("CLUSTER_ADDRESS", OVER_THERE)
    with_address = call_alone(command)

    for told in (without, with_address):
        assert told.status == 2
        assert "name the cluster's YAML file, or set CLUSTER_FILE" in told.err
        assert "or set CLUSTER_FILE or CLUSTER_ADDRESS" not in told.err
    assert f"CLUSTER_ADDRESS is {OVER_THERE}" in with_address.err
    assert "CLUSTER_ADDRESS" not in without.err


def test_a_typo_in_the_file_names_its_line(call_alone: Call) -> None:
    Path("cluster.yaml").write_text("name: lab\nmastr: {}\n")

    told = call_alone("job", "list")

    assert told.status == 2
    assert told.err == "cluster: cluster.yaml:2: mastr is not known; did you mean master?\n"


def test_a_key_that_is_not_there_is_a_mistake(call_alone: Call) -> None:
    told = call_alone("job", "list", "--address", OVER_THERE, "--authkey-file", "nowhere.key")

    assert told.status == 2
    assert "nowhere.key" in told.err
    assert "Traceback" not in told.err
