"""A host that falls silent: real TCP over a link between two network namespaces, of which one direction is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cluster.wire.address import Address
from cluster.wire.calls import JobArgs
from cluster.wire.keys import Role
from cluster.wire.manager import ClusterManager
from tests.chaos.hosts import is_possible
from tests.wire.rig import KEYS, WAIT_SECONDS, EchoDesk

REASON = is_possible()
HALF_A_MINUTE = 30.0  # what docs/explanation/security.md promises
SLACK_SECONDS = 10.0  # a busy machine

# In the other namespace: one connection that says nothing more, and one whose call is in hand.
PEER = """
import sys, threading
from cluster.wire.address import parse_address
from cluster.wire.calls import JobArgs
from cluster.wire.keys import Role, Secret
from cluster.wire.proxy import connect_desk

address, key = parse_address(sys.argv[1]), Secret(bytes.fromhex(sys.stdin.readline()))
idle, busy = (connect_desk("jobs", address, Role.CLIENT, key, patience_seconds=10.0, insecure=True) for _ in range(2))
idle.call("output", JobArgs("idle"))
threading.Thread(target=lambda: busy.call("output", JobArgs("busy")), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def other_host() -> Iterator[tuple[str, str]]:
    """A namespace with a link to this one; its name, and our address on the link."""
    name, number = f"silent-{os.getpid()}", os.getpid() % 250
    ours, theirs = f"10.211.{number}.1", f"10.211.{number}.2"
    ip("netns", "add", name)
    try:
        ip("link", "add", f"s{number}", "type", "veth", "peer", "name", "far", "netns", name)
        ip("address", "add", f"{ours}/30", "dev", f"s{number}")
        ip("link", "set", f"s{number}", "up")
        ip("-n", name, "address", "add", f"{theirs}/30", "dev", "far")
        ip("-n", name, "link", "set", "far", "up")
        yield name, ours
    finally:
        ip("netns", "del", name)  # the link goes with it


@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_a_silent_host_s_threads_and_descriptors_are_free_within_half_a_minute() -> None:
    called, answer = threading.Event(), threading.Event()

    def hang(said: JobArgs) -> bytes:
        if said.job == "idle":
            return b""
        called.set()
        answer.wait(WAIT_SECONDS)
        return b"said to nobody"

    desk = EchoDesk(output=hang)
    with other_host() as (name, ours):
        server = ClusterManager(Address(ours, 0), keys=KEYS, desks={"jobs": desk}, insecure=True).get_server()
        server.start()
        command = ["ip", "netns", "exec", name, sys.executable, "-c", PEER, str(server.address)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdin is not None
            assert peer.stdout is not None
            try:
                peer.stdin.write(f"{KEYS[Role.CLIENT].reveal().hex()}\n")
                peer.stdin.flush()
                assert peer.stdout.readline() == "ready\n"
                assert called.wait(WAIT_SECONDS)
                assert server.connections == 2

                ip("-n", name, "route", "add", "blackhole", f"{ours}/32")
                answer.set()  # something is on its way that is never acknowledged
                silent = time.monotonic()
                door = server._door
                with door._changed:
                    assert door._changed.wait_for(lambda: not len(door), HALF_A_MINUTE + SLACK_SECONDS)

                assert time.monotonic() - silent < HALF_A_MINUTE
            finally:
                peer.kill()
                server.stop(deadline_seconds=0.0)
