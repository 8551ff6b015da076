"""Throw-away environments of the extra peers, below a folder of the user's cache: made once, used again.

Nothing of a peer gets into the project's own environment, and nothing of ours into theirs: their processes find the
benchmarks on their path, and those import the kit only where the kit is what is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plan import Side

REQUIREMENTS = {
    Side.DASK: ("distributed",),
    Side.RAY: ("ray",),
    Side.CELERY: ("celery[redis]",),
    Side.HYPERQUEUE: ("hyperqueue",),
}
# The server's own files and the libraries that Debian's minimal images lack.
REDIS_PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "liblua5.1-0", "lua-bitop", "lua-cjson")
MADE = ".made"
INSTALL_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that can be measured."""

    python: str  # its interpreter
    version: str


class Unavailable(Exception):
    """A peer can't be measured here; the text says why."""


def cache_folder() -> Path:
    """Where the environments are; it may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cluster-benchmarks"


def prepare(side: Side) -> Peer | Unavailable:
    """Make a peer's environment if need be; `Unavailable` if it can't be had or measured."""
    folder = cache_folder() / side.name.lower()
    try:
        make_environment(folder, REQUIREMENTS[side])
        python = str(folder / "bin" / "python")
        if side is Side.HYPERQUEUE:
            require_hq(folder, python)
        if side is Side.CELERY:
            redis_server()
        return Peer(python, version_of(python, side))
    except Unavailable as error:
        return error


def make_environment(folder: Path, requirements: tuple[str, ...]) -> None:
    """A venv with these packages; one that was begun and not finished is made anew."""
    if (folder / MADE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", str(folder)])
    run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements])
    (folder / MADE).touch()


def require_hq(folder: Path, python: str) -> None:
    """HyperQueue's server and workers are its `hq` program, which its package on PyPI does not bring."""
    if not (folder / "bin" / "hq").exists():
        version = version_of(python, Side.HYPERQUEUE)
        raise Unavailable(
            f"hyperqueue {version} from PyPI has no hq program, without which it has no server to measure"
        )


def version_of(python: str, side: Side) -> str:
    """Of the peer's main package."""
    package = REQUIREMENTS[side][0].partition("[")[0]
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    return run([python, "-c", code, package]).strip()


def redis_server() -> tuple[str, dict[str, str]]:
    """The program, and what its environment must have: the system's, or Debian's packages unpacked in the cache."""
    found = shutil.which("redis-server")
    if found:
        return found, {}
    folder = cache_folder() / "redis"
    if not (folder / MADE).exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            raise Unavailable("there is no redis-server, and no Debian to take one from; install it, and run again")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run(["apt-get", "download", "--quiet", *REDIS_PACKAGES], cwd=folder)
        for package in sorted(folder.glob("*.deb")):
            run(["dpkg", "-x", str(package), str(folder)])
        (folder / MADE).touch()
    libraries = sorted({str(path.parent) for path in (folder / "usr" / "lib").rglob("*.so*")})
    return str(folder / "usr" / "bin" / "redis-server"), {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def run(command: list[str], cwd: Path | None = None) -> str:
    """What it prints. Raises `Unavailable` with its last words."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
            env=plain_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise Unavailable(f"{Path(command[0]).name} {command[1]} failed: {words[-1]}")
    return done.stdout


def plain_environment() -> dict[str, str]:
    """Ours, without what would lead another interpreter to our packages."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
