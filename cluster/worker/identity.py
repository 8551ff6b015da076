"""Another user for jobs: looked up before the first of them, become by each child, and never to be left again.

Only a supervisor that is root can have its jobs run as another user: it must kill, sweep and clean up what is not its own.
Nothing less will do: capabilities without root would survive the change of user in each child.
The order of the calls is the whole point (CVE-2011-4356 kept the real user id): first the groups, while that is still
allowed, then all three group ids, then all three user ids; afterwards it is tried to come back, which must fail. Programs
that make somebody root, as `sudo` does, don't do so for what a job starts (PR_SET_NO_NEW_PRIVS).
"""

from __future__ import annotations

import os

from msgspec import Struct

from cluster.errors import Refused
from cluster.wire.hiding import hide_memory

_PR_SET_NO_NEW_PRIVS = 38
_MAX_ID = (1 << 31) - 1
# Of capabilities(7): CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID. A container's root may lack some.
_NEEDED = sum(1 << bit for bit in (0, 1, 5, 6, 7))


class Identity(Struct, frozen=True, array_like=True):
    """A user, as a child needs it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: bytes  # any bytes may be a path


def find_identity(user: str) -> Identity:
    """The user that jobs shall run as.

    Raises:
        Refused: this process is not root with its usual powers, there is no such user, or it is root.
    """
    import pwd

    if os.geteuid() != 0 or _capabilities(b"CapEff:") & _NEEDED != _NEEDED:
        who = f"user {os.geteuid()}" if os.geteuid() else "root without the capabilities of root"
        raise Refused(
            f"only root can run jobs as another user, and this worker runs as {who}; start the worker as root (sudo), "
            f"or start it as {user} and leave `user` out"
        )
    try:
        # A number without an entry would have no home, and no group but one that is made up here.
        found = pwd.getpwuid(int(user)) if user.isdecimal() and int(user) <= _MAX_ID else pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise Refused(f"there is no user {user!r} on this host; `getent passwd` lists those that there are") from None
    if found.pw_uid == 0 or found.pw_gid == 0:
        raise Refused(f"jobs can't run as {user!r}, which is root or in its group; name another user")
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    if 0 in groups:
        raise Refused(f"jobs can't run as {user!r}, which is in the group of root; name another user")
    return Identity(found.pw_uid, found.pw_gid, tuple(groups), found.pw_name, os.fsencode(found.pw_dir))


def become(identity: Identity) -> None:
    """Be this user from here on, in every respect. Raises `OSError` if the kernel won't have it, or not for good."""
    # Not at the top, here and below: programs that have no use for it load this module too.
    import ctypes

    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _require_for_good(identity)
    os.environ.update(HOME=os.fsdecode(identity.home), USER=identity.name, LOGNAME=identity.name)
    # The kernel hides a process that has changed its user. This one has nothing to hide, and jobs look at themselves.
    hide_memory(is_hidden=False)


def require_way(identity: Identity, folder: str) -> None:
    """Refuse a folder that this user can't get to."""
    from pathlib import Path

    place = Path(folder).absolute()
    for parent in (place, *place.parents):
        status = parent.stat()
        if status.st_uid == identity.uid:
            bit = 0o100
        elif status.st_gid in {identity.gid, *identity.groups}:
            bit = 0o010
        else:
            bit = 0o001
        if not status.st_mode & bit:
            raise Refused(
                f"user {identity.name} can't get to {folder}, where its jobs are to start, because of the mode of "
                f"{parent}; run `chmod o+x {parent}`, or name another folder (--scratch)"
            )


def _require_for_good(identity: Identity) -> None:
    """Raise `OSError` unless all ids are the user's, no capability is left, and the way back is closed."""
    ids = (os.getresuid(), os.getresgid(), tuple(sorted(os.getgroups())))
    if ids != ((identity.uid,) * 3, (identity.gid,) * 3, tuple(sorted(identity.groups))):
        raise PermissionError(f"this process should be user {identity.name} alone, and is {ids}")
    for call, back in ((os.setresuid, (0, 0, 0)), (os.setresgid, (0, 0, 0))):
        try:
            call(*back)
        except PermissionError:
            continue
        raise PermissionError(f"a process that became user {identity.name} could come back to be root")
    kept = _capabilities(b"CapPrm:") | _capabilities(b"CapEff:") | _capabilities(b"CapAmb:")
    if kept:
        raise PermissionError(f"a process that became user {identity.name} kept capabilities: {kept:x}")


def _capabilities(kind: bytes) -> int:
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123 - Path is slow to load
        return next((int(line.split()[1], 16) for line in file if line.startswith(kind)), 0)
