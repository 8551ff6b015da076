from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from cluster.deploy import authority as module
from cluster.deploy.authority import Authority, Issued, Ledger
from cluster.deploy.private_files import staged
from cluster.errors import ClusterError, Refused
from tests.acceptance.programs import ROOT
from tests.small_disk import fill, small_disk

DAY = 86400.0


class Clock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.create(tmp_path / "ca", clock=clock)


def states(authority: Authority) -> list[tuple[str, str]]:
    return [(standing.name, standing.state) for standing in authority.standings()]


def serial_of(path: Path) -> str:
    return f"{x509.load_pem_x509_certificate(path.read_bytes()).serial_number:x}"


def load_pair(authority: Authority, role: str, name: str) -> None:
    """As TLS would; raises if the key is another certificate's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(authority.certificate_file(role, name), authority.key_file(role, name))


# --- a new one ----------------------------------------------------------------------------------------------------------


def test_a_new_authority_is_four_files_of_which_the_key_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        authority = Authority.create(tmp_path / "deep" / "ca")
    finally:
        os.umask(old)

    modes = {path.name: path.stat().st_mode & 0o777 for path in authority.folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "revoked.pem": 0o644, "issued.json": 0o644}
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in authority.folder.parent.iterdir()] == ["ca"]


def test_an_empty_folder_may_be_there_and_a_full_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()

    Authority.create(tmp_path / "empty")
    with pytest.raises(Refused, match="is not an empty folder"):
        Authority.create(tmp_path / "full")

    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_second_authority_does_not_replace_the_first(authority: Authority) -> None:
    before = authority.ca.read_bytes(), authority.ca_key.read_bytes()

    with pytest.raises(Refused, match=r"there is a certificate authority in .* already"):
        Authority.create(authority.folder)

    assert (authority.ca.read_bytes(), authority.ca_key.read_bytes()) == before


def test_the_current_folder_is_not_taken_from_under_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Refused, match="must not be the current one"):
        Authority.create(Path())


def test_of_many_that_make_one_at_once_one_does(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> None:
        try:
            made.append(Authority.create(tmp_path / "ca").ca.read_text())
        except Refused:
            made.append("refused")

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(made)[1:] == ["refused"] * 5
    assert min(made) == (tmp_path / "ca" / "ca.pem").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


def test_two_authorities_have_no_name_in_common(tmp_path: Path) -> None:
    one, other = Authority.create(tmp_path / "one"), Authority.create(tmp_path / "other")

    assert one.certificate.subject != other.certificate.subject


# --- issue, renew, revoke -----------------------------------------------------------------------------------------------


def test_an_identity_is_a_certificate_and_a_private_key(authority: Authority, clock: Clock) -> None:
    made = authority.issue("worker", "node1")

    assert (made.certificate.name, made.key.name) == ("worker-node1.pem", "worker-node1.key")
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert made.not_after == clock.now + 365 * DAY
    assert serial_of(made.certificate) == made.serial
    load_pair(authority, "worker", "node1")


def test_a_name_that_has_a_certificate_gets_no_second_one(authority: Authority) -> None:
    made = authority.issue("worker", "node1")
    before = made.certificate.read_bytes(), made.key.read_bytes()

    with pytest.raises(Refused, match=r"has a certificate already; write `cluster certs renew worker node1`"):
        authority.issue("worker", "node1")

    assert (made.certificate.read_bytes(), made.key.read_bytes()) == before
    authority.issue("client", "node1")  # another role is another identity


def test_files_that_the_ledger_does_not_know_are_never_written_over(authority: Authority) -> None:
    authority.key_file("worker", "node1").write_text("precious")

    with pytest.raises(Refused, match="the ledger does not know it; move it away"):
        authority.issue("worker", "node1")

    assert authority.key_file("worker", "node1").read_text() == "precious"
    assert authority.standings() == []


def test_renewal_keeps_the_key_and_cuts_nobody_off(authority: Authority, clock: Clock) -> None:
    old = authority.issue("master", "head", hosts=["head.lab", "192.0.2.7"])
    key = old.key.read_bytes()
    clock.now += 300 * DAY

    new = authority.renew("master", "head")

    assert (new.key.read_bytes(), new.not_after - old.not_after) == (key, 300 * DAY)
    assert states(authority) == [("head", "replaced"), ("head", "valid")]
    names = x509.load_pem_x509_certificate(new.certificate.read_bytes()).extensions
    assert names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [
        "head.lab"
    ]
    load_pair(authority, "master", "head")


def test_renewal_needs_no_private_key_of_the_identity(authority: Authority) -> None:
    old = authority.issue("worker", "node1")
    moved = old.key.rename(authority.folder.parent / "node1.key")

    new = authority.renew("worker", "node1")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(new.certificate, moved)
    assert not new.key.exists()


def test_renewal_with_a_new_key_makes_both_anew(authority: Authority) -> None:
    old = authority.issue("worker", "node1")
    key = old.key.read_bytes()

    new = authority.renew("worker", "node1", new_key=True)

    assert new.key.read_bytes() != key
    load_pair(authority, "worker", "node1")


def test_revoking_a_name_refuses_all_its_certificates_the_replaced_ones_too(authority: Authority) -> None:
    serials = [authority.issue("worker", "node1").serial, authority.renew("worker", "node1").serial]
    other = authority.issue("worker", "node2").serial

    revoked = authority.revoke("worker", "node1")

    crl = x509.load_pem_x509_crl(authority.revoked.read_bytes())
    assert sorted(revoked) == sorted(serials) == sorted(f"{entry.serial_number:x}" for entry in crl)
    assert {standing.state for standing in authority.standings() if standing.serial != other} == {"revoked"}
    assert authority.standing("worker", "node2") is not None
    assert authority.standing("worker", "node2").state == "valid"  # type: ignore[union-attr]


def test_a_revoked_name_is_issued_anew_with_another_serial_and_key_and_the_old_stays_refused(
    authority: Authority,
) -> None:
    old = authority.issue("worker", "node1")
    key = old.key.read_bytes()
    authority.revoke("worker", "node1")

    with pytest.raises(Refused, match=r"is revoked; write `cluster certs issue worker node1`"):
        authority.renew("worker", "node1")
    new = authority.issue("worker", "node1")

    assert new.serial != old.serial
    assert new.refused == (old.serial,)
    assert new.key.read_bytes() != key
    assert states(authority) == [("node1", "revoked"), ("node1", "valid")]


def test_what_is_revoked_already_or_never_was_is_a_mistake(authority: Authority) -> None:
    authority.issue("worker", "node1")
    authority.revoke("worker", "node1")

    with pytest.raises(Refused, match="is revoked already"):
        authority.revoke("worker", "node1")
    with pytest.raises(Refused, match="worker node2 has no certificate"):
        authority.revoke("worker", "node2")
    with pytest.raises(Refused, match=r"write `cluster certs issue master HOST... --name head`"):
        authority.renew("master", "head")


def test_a_certificate_ends_no_later_than_its_authority(tmp_path: Path, clock: Clock) -> None:
    authority = Authority.create(tmp_path / "ca", days=30, clock=clock)

    assert authority.issue("client", "ana").not_after == authority.not_after

    clock.now += 31 * DAY
    assert states(authority) == [("ana", "expired")]
    with pytest.raises(Refused, match="has expired; make a new one"):
        authority.issue("client", "ben")
    authority.revoke("client", "ana")  # which is of no use, and no fault


def test_what_ended_long_ago_is_forgotten(authority: Authority, clock: Clock) -> None:
    authority.issue("client", "ana", days=1)
    authority.issue("client", "ben", days=1)
    authority.revoke("client", "ana")
    clock.now += 20 * DAY
    authority.issue("client", "eve")
    assert [name for name, _ in states(authority)] == ["ana", "ben", "eve"]

    clock.now += 20 * DAY
    authority.issue("client", "kim")
    assert states(authority) == [("ana", "revoked"), ("eve", "valid"), ("kim", "valid")]
    authority.revoke("client", "eve")
    authority.issue("client", "leo")

    assert states(authority) == [("eve", "revoked"), ("kim", "valid"), ("leo", "valid")]
    assert len(list(x509.load_pem_x509_crl(authority.revoked.read_bytes()))) == 1


def test_a_forgotten_name_whose_files_are_still_there_is_issued_anew(authority: Authority, clock: Clock) -> None:
    old = authority.issue("client", "ana", days=1)
    clock.now += 40 * DAY
    authority.issue("client", "ben")
    assert [name for name, _ in states(authority)] == ["ben"]

    new = authority.issue("client", "ana")

    assert new.serial != old.serial
    load_pair(authority, "client", "ana")


def test_an_expired_certificate_of_somebody_else_is_not_replaced(
    authority: Authority, clock: Clock, tmp_path: Path
) -> None:
    other = Authority.create(tmp_path / "other", clock=clock).issue("client", "ana", days=1)
    other.certificate.rename(authority.certificate_file("client", "ana"))
    clock.now += 40 * DAY

    with pytest.raises(Refused, match="the ledger does not know it"):
        authority.issue("client", "ana")


def test_a_ledger_has_an_end(authority: Authority, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ISSUED", 2)
    authority.issue("client", "ana")
    authority.issue("client", "ben")

    with pytest.raises(Refused, match="keeps 2 certificates at most"):
        authority.issue("client", "eve")

    assert sorted(path.name for path in authority.folder.glob("client-eve*")) == []


def test_many_at_once_all_stand_in_the_ledger(authority: Authority) -> None:
    threads = [threading.Thread(target=authority.issue, args=("worker", f"node{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(states(authority)) == [(f"node{number}", "valid") for number in range(8)]
    for number in range(8):
        load_pair(authority, "worker", f"node{number}")


# --- names that are none ------------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    "-rf",
    ".hidden",
    "../up",
    "a/b",
    "a\0b",
    "a\nb",
    "n\u00f6de",
    "a b",
    "x" * 65,
    "node1\n",
    "%2e",
    "a;b",
    "\u202e",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_could_be_something_else_is_refused(authority: Authority, name: str) -> None:
    for change in (authority.issue, authority.renew, authority.revoke):
        with pytest.raises(Refused, match="can't be a name"):
            change("worker", name)

    assert len(list(authority.folder.iterdir())) == 4


@pytest.mark.parametrize("role", ["", "root", "Worker", "worker/..", "-worker"])
def test_a_role_that_there_is_not_is_refused(authority: Authority, role: str) -> None:
    with pytest.raises(Refused, match="write one of master, client, worker, admin"):
        authority.issue(role, "node1")


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "-head",
            "a/b",
            "a\0b",
            "h\u00f6st",
            "*.lab",
            "10.0.0.300",
            "0.0.0.0",
            "::",
            "fe80::1%eth0",
            "a..b",
            "a.",
        ),
        *("x" * 64, ".".join(["x" * 60] * 5), "tcp://head", "head:7601", "a b", "a\n"),
    ],
)
def test_a_host_that_nobody_can_dial_is_refused(authority: Authority, host: str) -> None:
    with pytest.raises(Refused, match=r"no host's name|no address that others can dial"):
        authority.issue("master", "head", hosts=["good.lab", host])


def test_a_master_needs_hosts_and_others_have_none(authority: Authority) -> None:
    with pytest.raises(Refused, match="needs the hosts that others dial"):
        authority.issue("master", "head")
    with pytest.raises(Refused, match="only a master's certificate names hosts"):
        authority.issue("worker", "node1", hosts=["node1"])
    with pytest.raises(Refused, match="too many for one certificate"):
        authority.issue("master", "head", hosts=[f"h{number}" for number in range(101)])


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf"), 1e9])
def test_days_have_bounds(authority: Authority, days: float) -> None:
    with pytest.raises(Refused, match="can't be valid for"):
        authority.issue("client", "ana", days=days)

    assert authority.standings() == []


# --- files that are not as they must be ---------------------------------------------------------------------------------


def test_a_folder_without_an_authority_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"there is no certificate authority in .*; run `cluster certs init "):
        Authority(tmp_path)


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("", 0o750, "other users can look into {path}; run `chmod 700 {path}`"),
        ("ca.key", 0o640, "other users can read or write {path}; run `chmod 600 {path}`"),
        ("ca.pem", 0o664, "other users can write {path}; run `chmod 644 {path}`"),
        ("revoked.pem", 0o666, "other users can write {path}; run `chmod 644 {path}`"),
        ("issued.json", 0o646, "other users can write {path}; run `chmod 644 {path}`"),
    ],
)
def test_what_others_can_get_at_is_refused_with_the_command_that_mends_it(
    authority: Authority, name: str, mode: int, said: str
) -> None:
    path = authority.folder / name
    path.chmod(mode)

    with pytest.raises(Refused) as caught:
        Authority(authority.folder).issue("client", "ana")

    sentence = str(caught.value)
    assert sentence == said.format(path=path)
    subprocess.run(sentence.split("`")[1].split(), check=True)  # and it does mend it
    Authority(authority.folder).issue("client", "ana")


def test_what_belongs_to_another_user_is_refused(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = authority.ca_key.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(Refused, match=f"belongs to user {owner}; run `sudo chown -R {owner + 1} "):
        Authority(authority.folder)


def test_a_link_in_the_place_of_a_key_is_refused(authority: Authority) -> None:
    authority.ca_key.rename(authority.folder.parent / "elsewhere")
    authority.ca_key.symlink_to(authority.folder.parent / "elsewhere")

    with pytest.raises(Refused, match="is a symbolic link"):
        authority.issue("client", "ana")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_told_as_such(authority: Authority, make: Callable[[Path, int], None]) -> None:
    authority.ca_key.unlink()
    make(authority.ca_key, 0o600)

    with pytest.raises(Refused, match=r"ca\.key is no plain file"):
        authority.issue("client", "ana")


def test_what_somebody_else_has_put_there_is_left_alone(authority: Authority) -> None:
    (authority.folder / "notes.new").write_text("mine")
    (authority.folder / "a.pem.new").mkdir()

    authority.issue("client", "ana")

    assert (authority.folder / "notes.new").read_text() == "mine"
    assert (authority.folder / "a.pem.new").is_dir()


def test_without_its_key_an_authority_can_be_read_and_signs_nothing(authority: Authority) -> None:
    authority.issue("client", "ana")
    authority.ca_key.rename(authority.folder.parent / "safe")

    assert states(Authority(authority.folder)) == [("ana", "valid")]
    for change in (authority.renew, authority.revoke):
        with pytest.raises(Refused, match="is not here; put it back"):
            change("client", "ana")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n"]
)
@pytest.mark.parametrize("name", ["ca.key", "ca.pem", "revoked.pem", "issued.json"])
def test_a_damaged_file_is_told_and_never_quoted(authority: Authority, name: str, data: bytes) -> None:
    (authority.folder / name).write_bytes(data)

    with pytest.raises(Refused, match="restore it from a backup") as caught:
        Authority(authority.folder).issue("client", "ana")

    assert name in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_the_key_and_the_revocations_of_another_authority_are_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")

    ours = authority.revoked.read_bytes()
    authority.revoked.write_bytes(other.revoked.read_bytes())
    with pytest.raises(Refused, match="was not signed by this authority"):
        authority.standings()
    authority.revoked.write_bytes(ours)
    authority.ca_key.write_bytes(other.ca_key.read_bytes())
    with pytest.raises(Refused, match="is not the key of"):
        authority.issue("client", "ana")


def test_a_ledger_of_a_newer_version_is_left_alone(authority: Authority) -> None:
    ledger = module._ledger_text(Ledger(issued=(Issued("1", "client", "ana", 0.0),), format=2))
    (authority.folder / "issued.json").write_bytes(ledger)

    with pytest.raises(Refused, match="a newer version of cluster"):
        authority.issue("client", "ben")

    assert (authority.folder / "issued.json").read_bytes() == ledger


# --- killed, and a full disk --------------------------------------------------------------------------------------------

# Dies by SIGKILL before its Nth change to the file system; exit status 0 once there is no Nth.
KILLED = """
import os, signal, sys
from pathlib import Path
from cluster.deploy.authority import Authority

left = [int(sys.argv[1])]
folder = Path(sys.argv[2])

def count(event, arguments):
    changes = event in {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"}
    if changes or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

def create(): Authority.create(folder)
def issue(): Authority(folder).issue("worker", "node1")
def rotate(): Authority(folder).renew("worker", "node1", new_key=True)
def revoke(): Authority(folder).revoke("worker", "node1")

sys.addaudithook(count)
globals()[sys.argv[3]]()
"""


def killed_ever_later(folder: Path, what: str) -> Iterator[int]:
    """Run it again and again, killed one change later each time, until it ends by itself."""
    for number in range(60):
        command = [sys.executable, "-B", "-c", KILLED, str(number), str(folder), what]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert done.returncode == -signal.SIGKILL, done.stderr
        yield number
    pytest.fail(f"{what} never came to its end")


def test_an_init_that_is_killed_anywhere_leaves_nothing_half_made(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    moments = 0

    for number in killed_ever_later(folder, "create"):
        moments += 1
        if folder.exists():  # killed after the move
            Authority(folder).issue("client", "ana")
            folder.rename(tmp_path / f"done{number}")

    assert moments > 8
    Authority(folder).issue("client", "ana")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []


@pytest.mark.parametrize("what", ["issue", "rotate", "revoke"])
def test_a_command_that_is_killed_anywhere_did_all_or_nothing(tmp_path: Path, what: str) -> None:
    seen: set[str] = set()
    base = tmp_path / "base"
    authority = Authority.create(base)
    if what != "issue":
        authority.issue("worker", "node1")
    count = 0
    while True:
        folder = tmp_path / f"ca{count}"
        subprocess.run(["cp", "-a", str(base), str(folder)], check=True)
        command = [sys.executable, "-B", "-c", KILLED, str(count), str(folder), what]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        count += 1

        after = Authority(folder)
        after.issue("client", "next")  # takes the lock, and puts things in order

        assert not list(folder.glob("*.new"))
        standing = after.standing("worker", "node1")
        seen.add(f"{len(after.standings())} {standing.state if standing else 'none'}")
        if standing is not None:
            load_pair(after, "worker", "node1")
            assert serial_of(after.certificate_file("worker", "node1")) == standing.serial
        else:
            assert not after.key_file("worker", "node1").exists()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr

    before_and_after = {
        "issue": {"1 none", "2 valid"},
        "rotate": {"2 valid", "3 valid"},
        "revoke": {"2 valid", "2 revoked"},
    }
    assert seen == before_and_after[what]


def test_a_full_disk_makes_nothing_and_later_all_goes_well(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        authority = Authority.create(disk / "ca")
        authority.issue("client", "ana")
        before = {path.name: path.read_bytes() for path in authority.folder.iterdir()}
        filler = fill(disk)

        for change in (authority.renew, authority.revoke):
            with pytest.raises(ClusterError, match=r"can't be written: No space left on device; nothing was changed"):
                change("client", "ana")
        with pytest.raises(ClusterError, match="No space left on device"):
            authority.issue("client", "ben")
        with pytest.raises(ClusterError, match="No space left on device"):
            Authority.create(disk / "other")

        assert {path.name: path.read_bytes() for path in authority.folder.iterdir()} == before
        assert sorted(path.name for path in disk.iterdir()) == ["ca", "filler"]
        filler.unlink()
        authority.renew("client", "ana", new_key=True)
        load_pair(authority, "client", "ana")
        authority.revoke("client", "ana")


def test_a_stray_half_written_file_is_dropped(authority: Authority) -> None:
    staged(authority.certificate_file("worker", "node1")).write_text("-----BEGIN CERTIFICATE-----\nMII")
    staged(authority.key_file("worker", "node1")).write_text("half a key")

    authority.issue("worker", "node1")

    load_pair(authority, "worker", "node1")
    assert not list(authority.folder.glob("*.new"))
