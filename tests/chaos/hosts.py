"""The stage of network namespaces: master, workers and clients on "hosts" of their own, joined by links that can be cut.

    namespace of worker-0                         link i                     namespace of the master
    worker ──loopback──► forwarder ──► 10.x.i.2 ═════════ 10.x.i.1 ──► forwarder ──loopback──► master

Each host has its own loopback interface, routes and TCP; a cut is a link that is down, or a route that leads nowhere in
one direction, and TCP meets it as it meets a pulled cable: nothing is refused, nothing is closed, retransmissions go on.

What it proves: the parties share no loopback and no port space, and live with a network that is silent for any time and
then delivers late. What it does not: the master speaks without TLS, and so on loopback only; the connections that cross
the link are the forwarders', not the kit's own (a forwarder is `proxy` without a fault); and all hosts share one kernel,
clock and disk. It needs root and iproute2 (`apt install iproute2`).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from tests.acceptance.programs import wait_until
from tests.chaos.proxy import FaultProxy
from tests.chaos.stage import Line, Stage

PORT = 7700  # of the forwarders, in namespaces where nothing else listens
UP_SECONDS = 15.0
HARNESS = "harness"


def is_possible() -> str:
    """Why there can be no namespaces here, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the ip command is missing: apt install iproute2"
    probe = f"chaos-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "this kernel, or this container, makes no network namespace"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return ""


class HostsStage(Stage):
    """Each party in a namespace of its own. The harness has a link too, which is never cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Two runs at a time on one machine must not meet in the harness's own routes.
        chance = random.Random(self.mark)
        self._net = f"10.{chance.randrange(64, 128)}"
        self._first = chance.randrange(0, 200)
        self._numbers: dict[str, int] = {}
        self._door: FaultProxy | None = None

    @property
    def address(self) -> str:
        """The master's, by way of the harness's own link."""
        assert self._door is not None
        return f"tcp://127.0.0.1:{self._door.address[1]}"

    @property
    def bind(self) -> str:
        """Where the master listens, on its host's loopback interface."""
        return f"tcp://127.0.0.1:{self.port}"

    def inside(self, name: str) -> list[str]:
        """Run it on its host."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def add_line(self, name: str, number: int) -> Line:
        """The link is there already; what the actor connects to is the forwarder of its host."""
        self.lines[name] = Line(name, f"tcp://127.0.0.1:{PORT}")
        return self.lines[name]

    def cut(self, name: str, chance: random.Random) -> tuple[str, Callable[[], None]]:
        """Take the link down, or lose what goes one way."""
        number = self._numbers[name]
        master, host = self._namespace("master"), self._namespace(name)
        to_host, to_master = f"{self._ip(number, 2)}/32", f"{self._ip(number, 1)}/32"
        faults: list[tuple[str, list[str], list[str]]] = [
            ("link down", ["-n", master, "link", "set", f"l{number}", "down"],
             ["-n", master, "link", "set", f"l{number}", "up"]),
            ("lost towards the host", ["-n", master, "route", "add", "blackhole", to_host],
             ["-n", master, "route", "del", "blackhole", to_host]),
            ("lost towards the master", ["-n", host, "route", "add", "blackhole", to_master],
             ["-n", host, "route", "del", "blackhole", to_master]),
        ]  # fmt: skip
        kind, begin, end = chance.choice(faults)
        _ip(begin)
        return kind, lambda: _ip(end)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        names = [f"worker-{n}" for n in range(self.setting.workers)]
        names += [f"client-{n}" for n in range(self.setting.clients)]
        self._numbers = {name: self._first + number for number, name in enumerate([*names, HARNESS])}
        for name in ["master", *names]:
            _ip(["netns", "add", self._namespace(name)])
            _ip(["-n", self._namespace(name), "link", "set", "lo", "up"])
        for name, number in self._numbers.items():
            self._link(name, number)
        to_master = [[f"{self._ip(n, 1)}:{PORT}", f"127.0.0.1:{self.port}"] for n in self._numbers.values()]
        self._forward("master", [each for pair in to_master for each in pair])
        for name in names:
            self._forward(name, [f"127.0.0.1:{PORT}", f"{self._ip(self._numbers[name], 1)}:{PORT}"])
        self._door = FaultProxy((self._ip(self._numbers[HARNESS], 1), PORT)).start()

    def _link(self, name: str, number: int) -> None:
        """A cable between the master's host and another, with an address at each end."""
        far = f"h{number}"
        _ip(["link", "add", f"l{number}", "netns", self._namespace("master"), "type", "veth", "peer", "name", far])
        ends = [(["-n", self._namespace("master")], f"l{number}", 1), ([], far, 2)]
        if name != HARNESS:
            _ip(["link", "set", far, "netns", self._namespace(name)])
            ends[1] = (["-n", self._namespace(name)], far, 2)
        for where, device, end in ends:
            _ip([*where, "address", "add", f"{self._ip(number, end)}/30", "dev", device])
            _ip([*where, "link", "set", device, "up"])

    def _forward(self, name: str, ends: Sequence[str]) -> None:
        actor = self.add_actor(
            f"forwarder-{name}", "forwarder",
            lambda: [*self.inside(name), sys.executable, "-m", "tests.chaos.proxy", *ends],
        )  # fmt: skip
        actor.start()
        wait_until(lambda: actor.log.exists() and "ready" in actor.log.read_text(), UP_SECONDS)

    def _tear_down(self) -> None:
        if self._door is not None:
            self._door.stop()
        for name in ["master", *self._numbers]:
            with contextlib.suppress(subprocess.CalledProcessError):  # not made, if something failed before
                _ip(["netns", "del", self._namespace(name)])  # its links go with it

    def _namespace(self, name: str) -> str:
        return f"chaos-{self.mark[:6]}-{name}"

    def _ip(self, number: int, end: int) -> str:
        return f"{self._net}.{number}.{end}"


def _ip(arguments: Sequence[str]) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
