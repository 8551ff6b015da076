"""A private certificate authority in a folder: who is a master, a worker, a client or an admin of this cluster.

    ca.pem, ca.key                the authority; whoever has ca.key can be anybody
    revoked.pem                   serial numbers that are refused: a list that the authority signs (X.509 CRL)
    issued.json                   the ledger: what was issued to whom, and until when
    worker-node1.pem, ....key     one identity, ROLE-NAME

Which file is the truth about what:

- A certificate counts as issued once it stands in the ledger, which is replaced in one move. Before that, key and
  certificate lie beside as NAME.new; after it they get their names. The next one who takes the folder's lock finishes
  what stands in the ledger and drops what does not, so a command that was killed has done all of its work or nothing.
- A serial number is revoked once it stands in revoked.pem, and nowhere else. Each certificate has a random serial
  number of its own, so a name may be issued again after it was revoked: the old certificate is still refused. (Salt took
  a deleted minion's old key for the new minion of that name, CVE-2016-9639.)
- An authority is there once its folder has its name: `create` makes the folder under another one and moves it.

A private key is replaced when `renew --new-key` was said, or when its certificate is revoked or over and its name is issued
anew; never otherwise.
Both lists are bounded: what ended a month ago is forgotten. Whoever is at work holds a lock on the folder, and readers
need none, because every file is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from cluster.deploy import certificates
from cluster.deploy.certificates import DAY_SECONDS
from cluster.deploy.identity import MASTER, check_hosts, check_name, check_role
from cluster.deploy.private_files import (
    FOLDER_MODE,
    NEW,
    PUBLIC_MODE,
    SECRET_MODE,
    locked_folder,
    read_checked,
    require_private_folder,
    settle,
    stage,
    staged,
    sync_folder,
    write_whole,
)
from cluster.errors import ClusterError, Refused

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

AUTHORITY_DAYS = 3650.0
LEAF_DAYS = 365.0
MAX_DAYS = 36500.0
MAX_ISSUED = 10_000
# After its end a certificate is refused by its date alone, whatever clock is a little slow.
FORGOTTEN_SECONDS = 30 * DAY_SECONDS


class Issued(Struct, frozen=True):
    """One line of the ledger."""

    serial: str  # hexadecimal
    role: str
    name: str
    not_after: float  # wall time
    hosts: tuple[str, ...] = ()  # a master's


class Ledger(Struct, frozen=True):
    """Every certificate that was issued, in that order."""

    issued: tuple[Issued, ...] = ()
    format: int = 1


class Standing(Struct, frozen=True):
    """How one certificate stands."""

    role: str
    name: str
    serial: str
    not_after: float
    state: str  # "valid", "replaced" (by a later one, but not refused), "revoked", "expired"
    hosts: tuple[str, ...] = ()


class Identity(Struct, frozen=True):
    """A certificate and its key, as files."""

    role: str
    name: str
    serial: str
    not_after: float
    certificate: Path
    key: Path
    refused: tuple[str, ...] = ()  # earlier serial numbers of this name that stay revoked


class Authority:
    """The authority in a folder. Its methods may be called by several processes at once."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Open it. Raises `Refused` if there is none, or others could get at it."""
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.ca_key = folder / "ca.key"
        self.revoked = folder / "revoked.pem"
        self._ledger = folder / "issued.json"
        self._clock = clock
        if not self.ca.exists():
            raise Refused(
                f"there is no certificate authority in {folder}; run `cluster certs init {folder}` to make one"
            )
        require_private_folder(folder)
        self.certificate = certificates.read_certificate(read_checked(self.ca, is_secret=False), self.ca)

    @classmethod
    def create(cls, folder: Path, *, days: float = AUTHORITY_DAYS, clock: Callable[[], float] = time.time) -> Authority:
        """Make an authority in a folder that is not there yet, or is empty.

        Raises:
            Refused: the folder has something in it.
            ClusterError: it can't be made; nothing is left of it.
        """
        _check_days(days)
        folder = Path(os.path.realpath(folder))
        if folder == Path.cwd():
            raise Refused(
                "an authority gets a folder of its own, which must not be the current one; name another folder"
            )
        try:
            folder.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise ClusterError(f"the folder {folder.parent} can't be made: {error.strerror}") from error
        with locked_folder(folder.parent):
            _drop_unfinished(folder)
            if (folder / "ca.pem").exists():
                raise Refused(f"there is a certificate authority in {folder} already; `cluster certs list` shows it")
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise Refused(f"{folder} is not an empty folder; name one that is not there yet")
            _make(folder, days, clock())
        return cls(folder, clock)

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def not_after(self) -> float:
        """When the authority ends, and with it all that it signed."""
        return self.certificate.not_valid_after_utc.timestamp()

    def standings(self) -> list[Standing]:
        """Every certificate that is not forgotten yet, the latest of a name last. Needs no private key."""
        now, refused = self._clock(), self._refused()
        last = {(entry.role, entry.name): entry.serial for entry in self._entries()}
        return [
            Standing(
                entry.role,
                entry.name,
                entry.serial,
                entry.not_after,
                _state(entry, now, refused, is_last=last[entry.role, entry.name] == entry.serial),
                entry.hosts,
            )
            for entry in self._entries()
        ]

    def standing(self, role: str, name: str) -> Standing | None:
        """The latest certificate of a name; None: it never had one."""
        found = [entry for entry in self.standings() if (entry.role, entry.name) == (role, name)]
        return found[-1] if found else None

    def certificate_file(self, role: str, name: str) -> Path:
        """Where the certificate of an identity is."""
        return self.folder / f"{check_role(role)}-{check_name(name)}.pem"

    def key_file(self, role: str, name: str) -> Path:
        """Where its private key is."""
        return self.certificate_file(role, name).with_suffix(".key")

    # --- changes --------------------------------------------------------------------------------------------------------

    def issue(self, role: str, name: str, *, hosts: Sequence[str] = (), days: float = LEAF_DAYS) -> Identity:
        """Make a key and a certificate for a name that has none, or whose certificate is revoked or expired.

        Args:
            role: master, worker, client or admin.
            name: what it is called; with the role it names the files.
            hosts: a master's names and addresses, as others dial them.
            days: how long it is valid, but no longer than the authority is.

        Raises:
            Refused: the name has a certificate, or something is not as it must be.
        """
        wanted = _wanted(role, name, hosts)
        with self._alone():
            return self._issue(wanted, days)

    def renew(
        self, role: str, name: str, *, days: float = LEAF_DAYS, new_key: bool = False, hosts: Sequence[str] = ()
    ) -> Identity:
        """Make a later certificate for a name. The earlier one stays good until its own end: nobody is cut off.

        Args:
            role: whose it is.
            name: what it is called.
            days: how long it is valid, but no longer than the authority is.
            new_key: make another private key. Otherwise it stays, and what is carried to another host is no secret.
            hosts: a master's, if they are others now.

        Raises:
            Refused: the name has no certificate, or its certificate is revoked.
        """
        check_role(role), check_name(name)
        with self._alone():
            return self._renew(role, name, hosts, days, new_key=new_key)

    def see_to(
        self, role: str, name: str, *, hosts: Sequence[str] = (), renewed_before_seconds: float
    ) -> Identity | None:
        """Have a certificate that is there, good, and good for long enough; what was made, None: it was so already.

        Needs the authority's key only if something is to be made. What is revoked is not made anew: that would undo what
        somebody did on purpose.

        Args:
            role: whose it is.
            name: what it is called.
            hosts: a master's; it gets another certificate if the one it has lacks any.
            renewed_before_seconds: how long before its end it is renewed.

        Raises:
            Refused: it is revoked, or something is not as it must be.
        """
        wanted = _wanted(role, name, hosts)
        with self._alone():
            known = self.standing(role, name)
            if known is None:
                return self._issue(wanted, LEAF_DAYS)
            if known.state == "revoked":
                raise Refused(
                    f"the certificate of {role} {name} is revoked; if that is over, "
                    f"{_how_to_issue(role, name, wanted[2])[:-1]} --ca {self.folder}`"
                )
            is_lost = not (self.certificate_file(role, name).exists() and self.key_file(role, name).exists())
            # To renew beyond the authority's end would be in vain, and would be tried again each time.
            ends_soon = known.not_after < min(self._clock() + renewed_before_seconds, self.not_after)
            if is_lost or ends_soon or not set(wanted[2]) <= set(known.hosts):
                return self._renew(role, name, wanted[2], LEAF_DAYS, new_key=is_lost)
            return None

    def revoke(self, role: str, name: str) -> list[str]:
        """Have every certificate of a name refused, the replaced ones too; their serial numbers.

        Raises:
            Refused: the name has none, or all are revoked already.
        """
        check_role(role), check_name(name)
        with self._alone():
            now, refused = self._clock(), self._refused()
            ours = [entry for entry in self._entries() if (entry.role, entry.name) == (role, name)]
            if not ours:
                raise Refused(f"{role} {name} has no certificate; `cluster certs list` shows those that there are")
            fresh = [entry.serial for entry in ours if entry.serial not in refused]
            if not fresh:
                raise Refused(f"every certificate of {role} {name} is revoked already")
            ended = {entry.serial for entry in self._entries() if entry.not_after + FORGOTTEN_SECONDS < now}
            kept = {serial: since for serial, since in refused.items() if serial not in ended}
            self._write_refused(kept | dict.fromkeys(fresh, now))
            return fresh

    # --- how ------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Under the folder's lock, with what an interrupted command left put in order, and what this one leaves too."""
        with locked_folder(self.folder):
            self._tidy()
            try:
                yield
            finally:
                self._tidy()

    def _issue(self, wanted: tuple[str, str, Sequence[str]], days: float) -> Identity:
        role, name, _ = wanted
        known = self.standing(role, name)
        if known is not None and known.state == "valid":
            raise Refused(
                f"{role} {name} has a certificate already; write `cluster certs renew {role} {name}` for a longer one, "
                f"or `cluster certs revoke {role} {name}` before it is issued anew"
            )
        path = self.certificate_file(role, name)
        there = [file for file in (path, self.key_file(role, name)) if file.exists()]
        if there and known is None and not self._has_ended(path):
            raise Refused(f"{there[0]} is there, and the ledger does not know it; move it away")
        key = certificates.new_key()
        return self._put(wanted, key.public_key(), key, days=days)

    def _renew(self, role: str, name: str, hosts: Sequence[str], days: float, *, new_key: bool) -> Identity:
        known = self.standing(role, name)
        if known is None:
            raise Refused(f"{role} {name} has no certificate yet; {_how_to_issue(role, name)}")
        if known.state == "revoked":
            raise Refused(f"the certificate of {role} {name} is revoked; {_how_to_issue(role, name)}")
        key = certificates.new_key() if new_key else None
        public = self._certified_key(known) if key is None else key.public_key()
        return self._put(_wanted(role, name, hosts or known.hosts), public, key, days=days)

    def _signing_key(self) -> EllipticCurvePrivateKey:
        if not self.ca_key.exists():
            raise Refused(
                f"the authority's key {self.ca_key} is not here; put it back for as long as this command takes"
            )
        key = certificates.read_key(read_checked(self.ca_key, is_secret=True), self.ca_key)
        if key.public_key() != certificates.public_key_of(self.certificate):
            raise Refused(f"{self.ca_key} is not the key of {self.ca}; restore both from one backup")
        return key

    def _certified_key(self, known: Standing) -> EllipticCurvePublicKey:
        path = self.certificate_file(known.role, known.name)
        if not path.exists():
            raise Refused(
                f"{path} is not here, and what it certifies can't be known; put it back, or write --new-key for both anew"
            )
        certificate = certificates.read_certificate(read_checked(path, is_secret=False), path)
        if _hexadecimal(certificate) != known.serial:
            raise Refused(f"{path} is not the certificate that the ledger knows; put that back, or write --new-key")
        return certificates.public_key_of(certificate)

    def _has_ended(self, path: Path) -> bool:
        """Whether a file is a certificate of ours that has expired: the ledger has forgotten it, and its key is worth nothing."""
        if not path.exists():
            return False
        found = certificates.read_certificate(read_checked(path, is_secret=False), path)
        return (
            certificates.is_signed_by(found, self.certificate)
            and found.not_valid_after_utc.timestamp() <= self._clock()
        )

    def _put(
        self,
        wanted: tuple[str, str, Sequence[str]],
        public: EllipticCurvePublicKey,
        private: EllipticCurvePrivateKey | None,
        *,
        days: float,
    ) -> Identity:
        """Sign, and put in place, by the ledger. Without a private key, the one that there is stays."""
        role, name, hosts = wanted
        signer, now = self._signing_key(), self._clock()
        if self.not_after <= now:
            raise Refused(f"the authority in {self.folder} has expired; make a new one and issue its certificates anew")
        until = min(now + _check_days(days) * DAY_SECONDS, self.not_after)
        signed = certificates.sign_leaf(self.certificate, signer, public, (role, name, hosts), (now, until))
        path, key_path = self.certificate_file(role, name), self.key_file(role, name)
        if private is not None:
            stage(key_path, certificates.key_pem(private), SECRET_MODE)
        stage(path, certificates.pem(signed), PUBLIC_MODE)
        earlier, refused = self._entries(), self._refused()
        # What is revoked leaves that list first (`revoke`), which could not know its end otherwise.
        kept = [old for old in earlier if old.not_after + FORGOTTEN_SECONDS >= now or old.serial in refused]
        if len(kept) >= MAX_ISSUED:
            raise Refused(f"an authority keeps {MAX_ISSUED} certificates at most; make another one")
        entry = Issued(_hexadecimal(signed), role, name, until, tuple(hosts))
        self._write_ledger(Ledger((*kept, entry)))
        # The rest is `_tidy`, at the end of this command, or at the beginning of the next one.
        stale = [old.serial for old in kept if (old.role, old.name) == (role, name) and old.serial in refused]
        return Identity(role, name, entry.serial, until, path, key_path, tuple(stale))

    def _tidy(self) -> None:
        """Give what stands in the ledger its name; drop what else is called NAME.new."""
        found = [
            path
            for path in sorted(self.folder.glob(f"*{NEW}"))
            if path.suffixes[-2:-1] in ([".pem"], [".key"], [".json"]) and path.is_file() and not path.is_symlink()
        ]
        serials = {entry.serial for entry in self._entries()} if found else set()
        for new in found:
            path = new.with_name(new.name.removesuffix(NEW))
            if path.suffix == ".pem" and path not in {self.ca, self.revoked} and _serial_in(new) in serials:
                # The certificate last: for as long as it is still to be moved, the next one knows that this is to be done.
                key = path.with_suffix(".key")
                if staged(key).exists():
                    settle(key)
                settle(path)
        for new in found:
            new.unlink(missing_ok=True)

    def _entries(self) -> tuple[Issued, ...]:
        data = read_checked(self._ledger, is_secret=False)
        try:
            ledger = msgspec.json.decode(data, type=Ledger)
        except msgspec.DecodeError:
            raise Refused(f"{self._ledger} is damaged; restore it from a backup") from None
        if ledger.format != Ledger().format:
            raise Refused(
                f"{self._ledger} was written by a newer version of cluster; upgrade with `pip install -U cluster-kit`"
            )
        return ledger.issued

    def _write_ledger(self, ledger: Ledger) -> None:
        write_whole(self._ledger, _ledger_text(ledger), PUBLIC_MODE)

    def _revocations(self) -> x509.CertificateRevocationList:
        return certificates.read_revocations(
            read_checked(self.revoked, is_secret=False), self.revoked, self.certificate
        )

    def _refused(self) -> dict[str, float]:
        """Revoked serial numbers, and since when."""
        return {f"{entry.serial_number:x}": entry.revocation_date_utc.timestamp() for entry in self._revocations()}

    def _write_refused(self, refused: dict[str, float]) -> None:
        from cryptography import x509

        signer = self._signing_key()
        number = self._revocations().extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
        serials = {int(serial, 16): since for serial, since in refused.items()}
        signed = certificates.sign_revocations(self.certificate, signer, serials, number, self._clock())
        write_whole(self.revoked, certificates.pem(signed), PUBLIC_MODE)


# --- making one -----------------------------------------------------------------------------------------------------


def _make(folder: Path, days: float, now: float) -> None:
    """The whole folder under another name, then moved: an authority is there whole or not at all."""
    new = folder.with_name(f"{_unfinished(folder)}{os.urandom(4).hex()}{NEW}")
    try:
        new.mkdir(mode=FOLDER_MODE)
        key = certificates.new_key()
        certificate = certificates.sign_authority(key, os.urandom(4).hex(), now, days)
        write_whole(new / "ca.key", certificates.key_pem(key), SECRET_MODE)
        write_whole(new / "ca.pem", certificates.pem(certificate), PUBLIC_MODE)
        nobody = certificates.sign_revocations(certificate, key, {}, 1, now)
        write_whole(new / "revoked.pem", certificates.pem(nobody), PUBLIC_MODE)
        write_whole(new / "issued.json", _ledger_text(Ledger()), PUBLIC_MODE)
        new.rename(folder)  # which an empty folder gives way to, and no other
        sync_folder(folder.parent)
    except OSError as error:
        raise ClusterError(
            f"an authority can't be made in {folder}: {error.strerror}; nothing is left of it"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _unfinished(folder: Path) -> str:
    return f".{folder.name}.authority."


def _drop_unfinished(folder: Path) -> None:
    """Remove what an interrupted `create` left; only by who holds the parent's lock, so nobody is at work in it."""
    for path in folder.parent.iterdir():
        if path.name.startswith(_unfinished(folder)) and path.name.endswith(NEW):
            shutil.rmtree(path, ignore_errors=True)


# --- small questions ------------------------------------------------------------------------------------------------


def _wanted(role: str, name: str, hosts: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    check_role(role), check_name(name)
    if role == MASTER:
        return role, name, check_hosts(hosts)
    if hosts:
        raise Refused(f"only a master's certificate names hosts; leave {', '.join(hosts)} out")
    return role, name, ()


def _check_days(days: float) -> float:
    if not 0 < days <= MAX_DAYS:
        raise Refused(f"a certificate can't be valid for {days:g} days; write a number up to {MAX_DAYS:g}")
    return days


def _state(entry: Issued, now: float, refused: dict[str, float], *, is_last: bool) -> str:
    if entry.serial in refused:
        return "revoked"
    if entry.not_after <= now:
        return "expired"
    return "valid" if is_last else "replaced"


def _how_to_issue(role: str, name: str, hosts: Sequence[str] = ()) -> str:
    before = f"{' '.join(hosts) or 'HOST...'} --name " if role == MASTER else ""
    return f"write `cluster certs issue {role} {before}{name}`"


def _hexadecimal(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def _serial_in(path: Path) -> str:
    """The serial number of a certificate that may be half written; empty: it has none."""
    try:
        return _hexadecimal(certificates.read_certificate(path.read_bytes(), path))
    except (OSError, Refused):
        return ""


def _ledger_text(ledger: Ledger) -> bytes:
    return msgspec.json.format(msgspec.json.encode(ledger), indent=1) + b"\n"
