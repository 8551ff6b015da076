from __future__ import annotations

import multiprocessing
import subprocess
import sys
from multiprocessing import managers

import pytest

from cluster.wire.manager import ClusterManager
from cluster.wire.server import ClusterServer
from tests.wire.rig import KEYS, LOOPBACK, EchoDesk, echo, proxy_to, serving


def test_a_manager_is_the_standard_library_s_and_hands_out_our_server() -> None:
    manager = ClusterManager(LOOPBACK, keys=KEYS, desks={"jobs": EchoDesk()})

    server = manager.get_server()
    server.stop()

    assert isinstance(manager, managers.BaseManager)
    assert isinstance(server, managers.Server)
    assert isinstance(server, ClusterServer)
    assert server.address.port


def test_two_clusters_in_one_process_share_nothing() -> None:  # row A31
    first, second = EchoDesk(), EchoDesk()

    with serving(first) as one, serving(second) as other, proxy_to(one) as proxy, proxy_to(other):
        echo(proxy, "a")
        assert one.id_to_obj["jobs"][0] is first
        assert other.id_to_obj["jobs"][0] is second

    assert (first.calls, second.calls) == (["output"], [])
    assert not vars(managers.BaseManager)["_registry"].keys() & {"jobs", "work", "admin"}
    assert "_registry" not in vars(ClusterManager)


def test_what_would_fork_a_server_or_connect_without_a_role_says_what_to_use() -> None:  # rows A30, A41
    manager = ClusterManager(LOOPBACK, keys=KEYS, desks={})

    with pytest.raises(TypeError, match="cluster master"):
        manager.start()
    with pytest.raises(TypeError, match="connect_desk"):
        manager.connect()


def test_a_manager_s_unused_key_is_its_own() -> None:  # row A29
    manager = ClusterManager(LOOPBACK, keys=KEYS, desks={})

    assert vars(manager)["_authkey"] != multiprocessing.current_process().authkey


def test_a_desk_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(TypeError, match="no desk is called 'job'"):
        ClusterManager(LOOPBACK, keys=KEYS, desks={"job": EchoDesk()}).get_server()


def test_importing_the_proxy_is_enough_to_know_the_transport() -> None:  # row A30
    script = (
        "import cluster.wire.proxy; from multiprocessing import managers; print(managers.listener_client['cluster'])"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert "ClusterListener" in ran.stdout
