"""`cluster certs ...` on a real authority."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.programs import ROOT
from tests.cli.rig import Call


@pytest.fixture
def ca(call_alone: Call) -> str:
    assert call_alone("certs", "init", "ca").status == 0
    return "ca"


def test_from_nothing_to_two_hosts_is_five_commands(tmp_path: Path, call_alone: Call) -> None:
    for command in (
        ["init", "ca"],
        ["issue", "master", "head.lab", "192.0.2.7", "--ca", "ca"],
        ["issue", "worker", "node1", "--ca", "ca"],
        ["issue", "client", "ana", "--ca", "ca"],
        ["issue", "admin", "ana", "--ca", "ca"],
    ):
        told = call_alone("certs", *command)
        assert told.status == 0, told.err

    made = {path.name for path in (tmp_path / "ca").iterdir()}
    assert made == {"ca.pem", "ca.key", "revoked.pem", "issued.json"} | {
        f"{name}{end}"
        for name in ("master-head.lab", "worker-node1", "client-ana", "admin-ana")
        for end in (".pem", ".key")
    }


def test_what_was_issued_is_told_with_the_files_to_carry(ca: str, call_alone: Call) -> None:
    told = call_alone("certs", "issue", "worker", "node1", "--ca", ca, "--json").document

    assert (told["role"], told["name"]) == ("worker", "node1")
    assert [Path(told[key]).name for key in ("ca", "certificate", "key")] == [
        *("ca.pem", "worker-node1.pem", "worker-node1.key")
    ]
    assert told["not_after"].endswith("+00:00")


def test_the_list_shows_how_each_stands(ca: str, call_alone: Call) -> None:
    call_alone("certs", "issue", "master", "head.lab", "::1", "--name", "head", "--ca", ca)
    call_alone("certs", "issue", "worker", "node1", "--days", "3", "--ca", ca)
    call_alone("certs", "issue", "worker", "node2", "--ca", ca)
    call_alone("certs", "renew", "worker", "node2", "--ca", ca)
    call_alone("certs", "revoke", "worker", "node2", "--ca", ca)

    told = call_alone("certs", "list", "--ca", ca)
    document = call_alone("certs", "list", "--ca", ca, "--json").document

    assert [(one["name"], one["state"]) for one in document] == [
        *(("head", "valid"), ("node1", "valid"), ("node2", "revoked"), ("node2", "revoked"))
    ]
    assert document[0]["hosts"] == ["head.lab", "::1"]
    assert len(told.lines) == 5
    assert told.err == "worker node1 ends soon; write `cluster certs renew worker node1`\n"


def test_a_revoked_name_is_issued_anew_and_told_so(ca: str, call_alone: Call) -> None:
    serial = call_alone("certs", "issue", "worker", "node1", "--ca", ca, "--json").document["serial"]
    revoked = call_alone("certs", "revoke", "worker", "node1", "--ca", ca, "--json").document

    again = call_alone("certs", "issue", "worker", "node1", "--ca", ca)

    assert revoked["serials"] == [serial]
    assert again.status == 0
    assert f"serial number {serial} stays refused" in again.err


def test_show_tells_of_one_certificate_and_of_the_authority(ca: str, call_alone: Call, tmp_path: Path) -> None:
    call_alone("certs", "issue", "client", "ana", "--ca", ca)

    one = call_alone("certs", "show", "client", "ana", "--ca", ca, "--json").document
    whole = call_alone("certs", "show", "--ca", ca, "--json").document
    by_openssl = subprocess.run(
        ["openssl", "x509", "-in", "ca/ca.pem", "-noout", "-fingerprint", "-sha256"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    assert (one["role"], one["state"]) == ("client", "valid")
    assert whole["sha256"] == by_openssl.strip().rpartition("=")[2]
    told = call_alone("certs", "show", "client", "ana", "--ca", ca).lines
    assert f"until        {one['not_after'][:10]} (in 365 d)" in told
    assert not [line for line in told if line.startswith(("not_after", "hosts"))]


def test_renewal_may_bring_a_new_key(ca: str, call_alone: Call, tmp_path: Path) -> None:
    call_alone("certs", "issue", "client", "ana", "--ca", ca)
    key = tmp_path / "ca" / "client-ana.key"
    first = key.read_bytes()

    call_alone("certs", "renew", "client", "ana", "--ca", ca)
    second = key.read_bytes()
    call_alone("certs", "renew", "client", "ana", "--new-key", "--ca", ca)

    assert first == second
    assert key.read_bytes() != first


def test_the_authority_of_a_cluster_s_file_is_the_default(
    tmp_path: Path, call_alone: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab.yaml").write_text("name: lab\n")
    call_alone("certs", "init", "state/tls")

    by_option = call_alone("certs", "issue", "client", "ana", "--file", "lab.yaml")
    monkeypatch.setenv("CLUSTER_FILE", "lab.yaml")
    by_variable = call_alone("certs", "list", "--json")

    assert by_option.status == 0
    assert [one["name"] for one in by_variable.document] == ["ana"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["list"], "no authority is named; write --ca DIR"),
        (["list", "--ca", "nowhere"], "run `cluster certs init nowhere`"),
        (["init", "ca"], "there is a certificate authority in"),
        (["issue", "worker", "a/b", "--ca", "ca"], "can't be a name"),
        (["issue", "worker", "--ca", "ca", "--", "-rf"], "can't be a name"),
        (["issue", "worker", "one", "two", "--ca", "ca"], "a worker has one name"),
        (["issue", "worker", "one", "--name", "two", "--ca", "ca"], "a worker has one name"),
        (["issue", "root", "one", "--ca", "ca"], "no role is called 'root'"),
        (["issue", "master", "::1", "--ca", "ca"], "give it a name, as in --name head"),
        (["issue", "master", "*.lab", "--ca", "ca"], "no host's name or address"),
        (["issue", "client", "ana", "--days", "0", "--ca", "ca"], "can't be valid for 0 days"),
        (["renew", "client", "eve", "--ca", "ca"], "write `cluster certs issue client eve`"),
        (["revoke", "client", "eve", "--ca", "ca"], "client eve has no certificate"),
        (["show", "client", "--ca", "ca"], "write `cluster certs show client NAME`"),
        (["show", "client", "eve", "--ca", "ca"], "client eve has no certificate"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(ca: str, command: list[str], said: str, call_alone: Call) -> None:
    told = call_alone("certs", *command)

    assert told.status == 2
    assert said in told.err
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


def test_no_secret_is_printed(ca: str, call_alone: Call, tmp_path: Path) -> None:
    call_alone("certs", "issue", "client", "ana", "--ca", ca)
    secrets = [
        line
        for name in ("ca.key", "client-ana.key")
        for line in (tmp_path / "ca" / name).read_text().splitlines()
        if not line.startswith("---")
    ]

    told = [
        call_alone("certs", *command, "--ca", ca, *form)
        for command in (["list"], ["show"], ["show", "client", "ana"], ["renew", "client", "ana"])
        for form in ([], ["--json"])
    ]

    assert secrets
    assert not [line for line in secrets for one in told if line in one.out + one.err]


def test_the_help_and_the_library_load_no_cryptography() -> None:
    program = (
        "import sys, json, cluster.cli.main, cluster.deploy.load, cluster.deploy.tls, cluster.deploy.authority\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('cryptography')]))"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == []
