"""A user's program, run by test_interpreter_flags.py under one flag after the other: everything once, told as JSON.

python FLAGS flags_program.py FOLDER FLAGS...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import cluster
from cluster.errors import ClusterError
from cluster.wire import codec
from cluster.wire.address import parse_address
from cluster.wire.calls import CALLS
from cluster.wire.connection import MAX_FRAME_BYTES
from cluster.wire.handshake import Greeting, introduce
from cluster.wire.keys import Role, load_key
from cluster.wire.listener import dial

DEADLINE_SECONDS = 40.0


def use(client: cluster.Cluster) -> dict[str, object]:
    """A job by value, one that fails, a map, and one that takes another's result."""
    word = "größer"

    def shout(text: str) -> str:
        print("heard", text)
        return text.upper() + word

    def fail() -> NoReturn:
        raise ValueError("on purpose")

    first = client.submit(shout, ("né",))
    said: dict[str, object] = {
        "result": first.result(DEADLINE_SECONDS),
        "input": client.submit(len, (first,)).result(DEADLINE_SECONDS),
        "map": list(client.map(abs, range(-3, 3))),
        "logs": first.logs(),
    }
    error = client.submit(fail, retries=1).exception(DEADLINE_SECONDS)
    said["error"] = f"{type(error).__name__}: {error}"
    return said


def try_roles(address: str, keys: Path) -> dict[str, str]:
    """Each role at one call of each desk: "allowed", or the first word of the refusal."""
    said = {}
    for role in Role:
        for desk, method in (("jobs", "stats"), ("work", "leave"), ("admin", "undrain")):
            where = parse_address(address)
            with dial(where, timeout=DEADLINE_SECONDS) as connection:
                introduce(connection, Greeting(role, load_key(keys / f"{role}.key"), where))
                connection.max_frame_bytes = MAX_FRAME_BYTES
                args = CALLS[desk, method].args
                connection.send_frame(
                    codec.encode_request("r", desk, method, args(**dict.fromkeys(args.__struct_fields__, "w")))
                )
                try:
                    codec.read_answer(codec.open_answer(connection.receive_frame(DEADLINE_SECONDS), "r"), desk, method)
                    said[f"{role} {desk}"] = "allowed"
                except ClusterError as error:
                    said[f"{role} {desk}"] = "refused" if "is not for role" in str(error) else "allowed"
    for name in ("shutdown", "create", "debug_info", "incref", "__class__"):
        with dial(parse_address(address), timeout=DEADLINE_SECONDS) as connection:
            introduce(connection, Greeting(Role.CLIENT, load_key(keys / "client.key"), parse_address(address)))
            connection.send_frame(codec.encode_request("r", "jobs", name, CALLS["jobs", "stats"].args()))
            try:
                codec.read_answer(codec.open_answer(connection.receive_frame(DEADLINE_SECONDS), "r"), "jobs", "stats")
                said[name] = "allowed"
            except ClusterError as error:
                said[name] = "refused" if "knows no call" in str(error) else str(error)
    return said


def start(folder: Path, flags: list[str], *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """A process of the kit's under these flags, once it is ready."""
    reading, writing = os.pipe()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *flags, "-m", "cluster", *arguments, "--ready-fd", str(writing)],
            pass_fds=(writing,), cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor
        return process, pipe.read()


def main() -> None:
    """Embedded, then connected."""
    folder, flags = Path(sys.argv[1]), sys.argv[2:]
    with cluster.local(slots=1, store=f"sqlite:///{folder}/embedded.db") as client:
        told: dict[str, object] = {"embedded": use(client)}
    keys = folder / "keys"
    bind = ("--bind", "tcp://127.0.0.1:0", "--store", f"sqlite:///{folder}/lab.db", "--keys", str(keys))
    master, line = start(folder, flags, "master", *bind)
    address = line.split()[1]
    worker, _ = start(folder, flags, "worker", address, "--name", "w", "--authkey-file", str(keys / "worker.key"))
    with cluster.connect(address, keys / "client.key") as client:
        told["connected"] = use(client)
    told["roles"] = try_roles(address, keys)
    for process in (worker, master):
        process.send_signal(signal.SIGTERM)
    told["ends"] = [process.wait(DEADLINE_SECONDS) for process in (worker, master)]
    print(json.dumps(told, sort_keys=True))


if __name__ == "__main__":
    main()
