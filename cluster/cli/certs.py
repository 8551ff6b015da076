"""`cluster certs ...`: who may be a master, a worker, a client or an admin, as certificates of a private authority."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli import find
from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import Column, duration_text, moment_text, print_fields, print_json, print_table, say
from cluster.errors import Refused

if TYPE_CHECKING:
    from cluster.deploy.authority import Authority, Identity, Standing

app = typer.Typer(help="Certificates for TLS: make an authority, issue, renew and revoke.", no_args_is_help=True)

DAY_SECONDS = 86400.0
# What ends sooner is told in every listing: time enough to carry a renewed certificate to its host.
SOON_SECONDS = 30 * DAY_SECONDS

RoleArgument = Annotated[str, typer.Argument(metavar="ROLE", help="master, worker, client or admin.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What it is called; a worker's is its `--name`.")]
Days = Annotated[float, typer.Option(help="How long it is valid, but no longer than the authority.")]
YEAR_DAYS = 365.0

_COLUMNS = (
    Column("role"),
    Column("name", may_shrink=True),
    Column("state"),
    Column("until"),
    Column("serial", may_shrink=True),
    Column("hosts", may_shrink=True),
)


@dataclass(frozen=True, slots=True)
class Which:
    """The options that name an authority."""

    ca: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The authority's folder.", show_default="that of the cluster's file"),
    ] = None
    file: Annotated[
        Path | None,
        typer.Option(
            help="The configuration of a cluster with `tls: auto`.", show_default="CLUSTER_FILE, else ./cluster.yaml"
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a certificate is to be."""

    name: Annotated[str | None, typer.Option(help="What a master is called.", show_default="as its first host")] = None
    days: Days = YEAR_DAYS


@dataclass(frozen=True, slots=True)
class Later:
    """How a renewed certificate is to be."""

    new_key: Annotated[bool, typer.Option("--new-key", help="Make another private key too.")] = False
    days: Days = YEAR_DAYS


@app.command()
@grouped
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet, or is empty.")],
    form: Form,
    days: Annotated[float, typer.Option(help="How long the authority is valid, and all that it signs.")] = 3650,
) -> None:
    """Make an authority. Its ca.key can make anybody an admin: keep it where only you can get at it."""
    from cluster.deploy.authority import Authority

    authority = Authority.create(folder, days=days)
    _print_authority(authority, form)
    if not form.json:
        say(f"next: cluster certs issue master HOST... --ca {folder}")


@app.command()
@grouped
def issue(
    role: RoleArgument,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME | HOST...", help="Its name; for a master, the hosts that others dial.")
    ],
    which: Which,
    form: Form,
    wanted: Wanted,
) -> None:
    """Make a key and a certificate: `issue worker NAME`, `issue client NAME`, `issue admin NAME`, `issue master HOST...`.

    A name that was revoked may be issued anew. Its new certificate has a key and a serial number of its own, and the
    revoked one stays refused.
    """
    from cluster.deploy.identity import MASTER, check_hosts, check_role, name_of_master

    if check_role(role) == MASTER:
        hosts = check_hosts(names)
        name = wanted.name or name_of_master(hosts)
        made = _authority(which).issue(role, name, hosts=hosts, days=wanted.days)
    elif wanted.name is not None or len(names) > 1:
        raise Refused(f"a {role} has one name; write `cluster certs issue {role} NAME` for each")
    else:
        made = _authority(which).issue(role, names[0], days=wanted.days)
    _print_identity(made, form)
    for serial in made.refused:
        say(
            f"{role} {made.name} was revoked before: serial number {serial} stays refused, this certificate has its own"
        )


@app.command()
@grouped
def renew(role: RoleArgument, name: NameArgument, which: Which, form: Form, later: Later) -> None:
    """Make a later certificate for a name. The key stays, so what is carried to its host is no secret.

    The earlier certificate is good until its own end: renew, carry, restart, in any order and at leisure.
    """
    _print_identity(_authority(which).renew(role, name, days=later.days, new_key=later.new_key), form)


@app.command()
@grouped
def revoke(role: RoleArgument, name: NameArgument, which: Which, form: Form) -> None:
    """Have every certificate of a name refused. Masters that use this authority's revoked.pem cut it off at once.

    A master's is refused by those who have this list beside their ca.pem: carry it there.
    """
    authority = _authority(which)
    serials = authority.revoke(role, name)
    if form.json:
        print_json({"role": role, "name": name, "serials": serials, "revoked": str(authority.revoked)})
        return
    print_fields([("revoked", f"{role} {name}"), ("serial", ", ".join(serials)), ("list", str(authority.revoked))])


@app.command(name="list")
@grouped
def list_(which: Which, form: Form) -> None:
    """Show every certificate that was issued, and how it stands."""
    standings = _authority(which).standings()
    if form.json:
        print_json([_document(standing) for standing in standings])
        return
    print_table(
        _COLUMNS,
        [(one.role, one.name, one.state, _until(one.not_after), one.serial, ", ".join(one.hosts)) for one in standings],
    )
    for one in standings:
        if one.state == "valid" and one.not_after < time.time() + SOON_SECONDS:
            say(f"{one.role} {one.name} ends soon; write `cluster certs renew {one.role} {one.name}`")


@app.command()
@grouped
def show(
    which: Which,
    form: Form,
    role: Annotated[
        str | None, typer.Argument(metavar="[ROLE]", help="Whose certificate.", show_default="the authority's")
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="What it is called.")] = None,
) -> None:
    """Show one certificate, or the authority itself."""
    from cluster.deploy.identity import check_name, check_role

    authority = _authority(which)
    if role is None:
        _print_authority(authority, form)
        return
    if name is None:
        raise Refused(f"whose certificate? write `cluster certs show {check_role(role)} NAME`")
    standing = authority.standing(check_role(role), check_name(name))
    if standing is None:
        raise Refused(f"{role} {name} has no certificate; `cluster certs list` shows those that there are")
    document = {
        **_document(standing),
        "certificate": str(authority.certificate_file(role, name)),
        "key": str(authority.key_file(role, name)),
        "ca": str(authority.ca),
    }
    if form.json:
        print_json(document)
        return
    told = {**document, "hosts": ", ".join(standing.hosts), "until": _until(standing.not_after)}
    del told["not_after"]
    print_fields((key, str(value)) for key, value in told.items())


# --- which authority, and how it is told ----------------------------------------------------------------------------


def _authority(which: Which) -> Authority:
    from cluster.deploy.authority import Authority

    if which.ca is not None:
        return Authority(which.ca)
    from cluster.deploy.load import load_config
    from cluster.deploy.tls import authority_folder

    try:
        file = find.config_file(which.file)
    except Refused:
        raise Refused("no authority is named; write --ca DIR, or --file FILE of a cluster with `tls: auto`") from None
    return Authority(authority_folder(load_config(file)))


def _print_authority(authority: Authority, form: Form) -> None:
    from cluster.deploy.certificates import fingerprint_of

    document = {
        "authority": str(authority.folder),
        "ca": str(authority.ca),
        "key": str(authority.ca_key),
        "revoked": str(authority.revoked),
        "sha256": fingerprint_of(authority.certificate),
        "not_after": moment_text(authority.not_after),
    }
    if form.json:
        print_json(document)
        return
    has_key = authority.ca_key.exists()
    told = {**document, "key": document["key"] if has_key else "not here", "until": _until(authority.not_after)}
    del told["not_after"]
    print_fields((key, str(value)) for key, value in told.items())


def _print_identity(made: Identity, form: Form) -> None:
    ca = made.certificate.with_name("ca.pem")
    if form.json:
        print_json(
            {
                "role": made.role,
                "name": made.name,
                "serial": made.serial,
                "not_after": moment_text(made.not_after),
                "ca": str(ca),
                "certificate": str(made.certificate),
                "key": str(made.key),
            }
        )
        return
    print_fields(
        [
            (made.role, made.name),
            ("until", _until(made.not_after)),
            ("serial", made.serial),
            ("ca", str(ca)),
            ("certificate", str(made.certificate)),
            ("key", str(made.key) if made.key.exists() else "unchanged, and not here"),
        ]
    )


def _document(standing: Standing) -> dict[str, Any]:
    return {
        "role": standing.role,
        "name": standing.name,
        "state": standing.state,
        "serial": standing.serial,
        "not_after": moment_text(standing.not_after),
        "hosts": standing.hosts,
    }


def _until(moment: float) -> str:
    left = moment - time.time()
    day = (moment_text(moment) or "")[:10]
    return f"{day} (in {duration_text(left)})" if left > 0 else f"{day} (over)"
