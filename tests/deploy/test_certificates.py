"""That OpenSSL takes what we sign, with the checks that Python 3.13 makes by default, and refuses the rest."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.deploy import certificates
from cluster.deploy.authority import Authority

PROGRAM = Path(__file__).with_name("shake_hands.py")
DAY = 86400.0


def pythons() -> list[str]:
    """This one, with the strict flag set; and a 3.13, which sets it by itself, where there is one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    others = [shutil.which("python3.13"), *map(str, sorted(root.glob("versions/3.13*/bin/python3.13")))]
    for python in filter(None, others):
        if not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
            return [sys.executable, python]
    return [sys.executable]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("certificates") / "ca")
    made.issue("master", "head", hosts=["head.lab", "192.0.2.7", "2001:DB8::7"])
    for role in ("worker", "client", "admin"):
        made.issue(role, "node1")
    return made


def shake_hands(
    authority: Authority, who: tuple[str, str], *, host: str = "head.lab", python: str = sys.executable, **more: Any
) -> Any:
    def files(role: str, name: str) -> list[str]:
        return [str(authority.certificate_file(role, name)), str(authority.key_file(role, name))]

    asked = {
        "ca": str(authority.ca),
        "crl": str(authority.revoked),
        "master": files("master", "head"),
        "peer": files(*who),
        "host": host,
        **more,
    }
    done = subprocess.run([python, str(PROGRAM), json.dumps(asked)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("python", pythons(), ids=lambda python: "this" if python == sys.executable else "3.13")
@pytest.mark.parametrize("role", ["worker", "client", "admin"])
def test_both_sides_verify_each_other_with_the_strict_checks_of_3_13(
    authority: Authority, role: str, python: str
) -> None:
    told = shake_hands(authority, (role, "node1"), python=python)

    assert (told["version"], told.get("heard")) == ("TLSv1.3", "welcome"), told
    assert told["default_is_strict"] == (told["python"] >= [3, 13])
    assert ["URI", f"cluster://{role}/node1"] in told["peer"]["subjectAltName"]
    assert [["organizationalUnitName", role]] in told["peer"]["subject"]
    assert [["commonName", "node1"]] in told["peer"]["subject"]
    assert ["URI", "cluster://master/head"] in told["master"]["subjectAltName"]


@pytest.mark.parametrize("host", ["head.lab", "192.0.2.7", "2001:db8::7"])
def test_a_master_answers_for_each_of_its_hosts(authority: Authority, host: str) -> None:
    assert shake_hands(authority, ("client", "node1"), host=host)["heard"] == "welcome"


def test_a_master_answers_for_no_other_host(authority: Authority) -> None:
    told = shake_hands(authority, ("client", "node1"), host="other.lab")

    assert "not valid for 'other.lab'" in told["client"]


def test_a_worker_s_certificate_can_t_stand_for_a_master(authority: Authority) -> None:
    worker = [str(authority.certificate_file("worker", "node1")), str(authority.key_file("worker", "node1"))]

    told = shake_hands(authority, ("client", "node1"), master=worker)

    assert "unsuitable certificate purpose" in told["client"]


def test_a_master_s_certificate_can_t_stand_for_a_client(authority: Authority) -> None:
    assert "unsuitable certificate purpose" in shake_hands(authority, ("master", "head"))["server"]


def test_a_certificate_of_another_authority_of_the_same_kind_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other").issue("client", "node1")

    told = shake_hands(authority, ("client", "node1"), peer=[str(other.certificate), str(other.key)])

    assert "certificate verify failed" in told["server"]


def test_a_revoked_certificate_is_refused_and_the_one_after_it_is_not(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    authority.issue("master", "head", hosts=["head.lab"])
    old = authority.issue("worker", "node1")
    kept = [str(shutil.copy(old.certificate, tmp_path)), str(shutil.copy(old.key, tmp_path))]

    authority.revoke("worker", "node1")
    revoked = shake_hands(authority, ("worker", "node1"))
    authority.issue("worker", "node1")

    assert "certificate revoked" in revoked["server"]
    assert shake_hands(authority, ("worker", "node1"))["heard"] == "welcome"
    assert "certificate revoked" in shake_hands(authority, ("worker", "node1"), peer=kept)["server"]


def test_an_expired_authority_vouches_for_nobody(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", days=2, clock=lambda: time.time() - 3 * DAY)
    authority.issue("master", "head", hosts=["head.lab"])
    authority.issue("client", "node1")

    told = shake_hands(authority, ("client", "node1"), crl=None)

    assert "certificate has expired" in told["client"]


def test_a_certificate_says_what_it_is_for_and_nothing_more(authority: Authority) -> None:
    ca = x509.load_pem_x509_certificate(authority.ca.read_bytes())
    worker = x509.load_pem_x509_certificate(authority.certificate_file("worker", "node1").read_bytes())

    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = worker.extensions.get_extension_for_class(x509.KeyUsage)
    purposes = worker.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert str(ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value).startswith("cluster authority ")
    assert worker.not_valid_before_utc <= dt.datetime.now(dt.UTC) - dt.timedelta(minutes=4)


def test_the_list_of_revocations_ends_with_the_authority_and_not_before(authority: Authority) -> None:
    crl = x509.load_pem_x509_crl(authority.revoked.read_bytes())

    assert crl.next_update_utc == authority.certificate.not_valid_after_utc
    assert certificates.public_key_of(authority.certificate) is not None
    assert crl.is_signature_valid(certificates.public_key_of(authority.certificate))
