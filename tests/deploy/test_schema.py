from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.deploy.schema import MAX_SOCKET_PATH_BYTES, Certificate, Config, NotYet, Section, Threads


def read(folder: str = "/srv/lab", **data: Any) -> Config:
    return Config.model_validate(data, context={"folder": folder})


def fault(**data: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        read(**data)
    return caught.value.errors()[0]["msg"]


def test_an_empty_configuration_is_a_cluster_with_the_defaults_of_the_design() -> None:
    config = read()

    assert config.master.bind == "tcp://127.0.0.1:7601"
    assert (config.heartbeat.interval, config.heartbeat.timeout, config.drain.timeout) == (2.0, 10.0, 60.0)
    assert (config.defaults.retries, config.defaults.backoff, config.defaults.crash_limit) == (0, 1.0, 5)
    assert (config.retention.results, config.retention.dead, config.retention.max_size) == (604800.0, 2592000.0, 10**10)
    assert (config.log.level, config.log.max_size) == ("info", 50_000_000)
    assert [(worker.name, worker.host, worker.slots) for worker in config.workers] == [
        ("worker-1", "localhost", "auto")
    ]


def test_relative_paths_come_out_absolute_defaults_too() -> None:
    config = read(log={"dir": "logs"})

    assert config.log.dir == "/srv/lab/logs"
    assert config.master.keys == "/srv/lab/state/keys"
    assert config.master.store == "sqlite:////srv/lab/state/cluster.db"


def test_absolute_paths_and_memory_stay_as_they_are() -> None:
    config = read(master={"store": "sqlite:////var/lab.db", "keys": "/etc/lab"})

    assert config.master.store == "sqlite:////var/lab.db"
    assert config.master.keys == "/etc/lab"
    assert read(master={"store": "memory:"}).master.store == "memory:"


def test_a_unix_socket_s_path_is_made_absolute_and_bounded() -> None:
    assert read(master={"bind": "unix://run/s"}).master.bind == "unix:///srv/lab/run/s"

    said = fault(master={"bind": "unix:///" + "x" * MAX_SOCKET_PATH_BYTES})

    assert "choose a shorter one" in said


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:7601", "tcp://192.0.2.7:7601", "tcp://head:7601"])
def test_an_address_that_others_can_reach_needs_tls(bind: str) -> None:
    said = fault(master={"bind": bind})

    assert "needs tls; write tls: auto" in said
    assert read(master={"bind": bind, "tls": "auto"}).master.bind == bind
    assert read(master={"bind": bind, "insecure": True}).master.insecure


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:0", "tcp://[::1]:7601", "tcp://localhost:7601"])
def test_an_address_of_this_host_needs_none(bind: str) -> None:
    assert read(master={"bind": bind}).master.bind == bind


def test_the_bare_word_off_is_off_although_yaml_makes_it_false() -> None:
    assert read(master={"tls": False}).master.tls == "off"


def test_the_files_of_a_certificate_come_out_absolute_and_survive_the_snapshot() -> None:
    config = read(master={"tls": {"ca": "tls/ca.pem", "cert": "/etc/lab/m.pem", "key": "tls/m.key"}})

    tls = Config.model_validate_json(config.model_dump_json()).master.tls

    assert (
        tls
        == config.master.tls
        == Certificate(ca="/srv/lab/tls/ca.pem", cert="/etc/lab/m.pem", key="/srv/lab/tls/m.key")
    )


def test_hosts_are_checked_as_a_certificate_will_say_them() -> None:
    assert read(master={"hosts": ["Head.lab", "[::1]"]}).master.hosts == ["head.lab", "::1"]

    assert "is no host's name or address" in fault(master={"hosts": ["head.lab", "*.lab"]})


def test_tls_and_insecure_contradict_each_other() -> None:
    assert "leave one of the two out" in fault(master={"tls": "auto", "insecure": True})


@pytest.mark.parametrize(
    "data",
    [
        {"master": {"web": {"bind": "http://127.0.0.1:7602"}}},
        {"master": {"store": "postgresql://db"}},
        {"ship": ["mine"]},
        {"functions": ["mine:f"]},
        {"queues": {"gpu": {"priority": 10}}},
        {"queues": {"gpu": {"max_running": 4}}},
        {"workers": [{"host": "node1"}]},
        {"workers": [{"port": 2222}]},
        {"workers": [{"setup": ["true"]}]},
        {"workers": [{"venv": "auto"}]},
        {"workers": [{"tunnel": "ssh"}]},
        {"workers": [{"initializer": "mine:f"}]},
        {"workers": [{"slots": {"engine": "dask"}}]},
    ],
    ids=str,
)
def test_what_is_still_to_be_built_says_so(data: dict[str, Any]) -> None:
    said = fault(**data)

    assert "not there yet" in said


def sections(section: type[Section]) -> set[type[Section]]:
    found = {section}
    for field in section.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, Section):
                found |= sections(kind)
    return found


@pytest.mark.parametrize("section", sorted(sections(Config) - {Threads, Certificate}, key=str))
def test_what_is_still_to_be_built_takes_its_own_default(section: type[Section]) -> None:
    whole = section.model_validate({})

    for name, field in section.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, NotYet):
                assert getattr(whole, name) == mark.only


@pytest.mark.parametrize(("slots", "read_as"), [(1, 1), ("auto", "auto"), ({"threads": 4}, Threads(threads=4))])
def test_slots_are_processes_or_threads(slots: object, read_as: object) -> None:
    assert read(workers=[{"slots": slots}]).workers[0].slots == read_as


@pytest.mark.parametrize(
    "slots", [0, -1, True, 2.0, "2", None, 10**6, {"threads": 0}, {"threads": "4"}, {"threads": 4, "x": 1}, {}]
)
def test_other_slots_are_told_what_there_is(slots: object) -> None:
    said = fault(workers=[{"slots": slots}])

    assert "is no number of slots; write 1 to" in said


def test_workers_without_a_name_are_numbered() -> None:
    config = read(workers=[{}, {"name": "big"}, {}])

    assert [worker.name for worker in config.workers] == ["worker-1", "big", "worker-3"]


@pytest.mark.parametrize("names", [["a", "a"], ["master"], ["keeper"]])
def test_a_name_can_be_had_once(names: list[str]) -> None:
    said = fault(workers=[{"name": name} for name in names])

    assert "is taken; give each worker its own" in said


@pytest.mark.parametrize("name", ["", "../x", "a b", "a#b", ".hidden", "-x", "a/b"])
def test_a_name_is_one_that_a_file_and_a_log_can_have(name: str) -> None:
    fault(workers=[{"name": name}])
    fault(name=name)


def test_a_heartbeat_that_could_lose_a_living_worker_is_refused() -> None:
    said = fault(heartbeat={"interval": 6, "timeout": 10})

    assert "at least twice" in said


@pytest.mark.parametrize("env", [{"A": 1}, {"A": True}, {"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, {"CLUSTER_KEY": "x"}])
def test_an_environment_holds_texts_and_nothing_of_the_kit(env: dict[str, object]) -> None:
    fault(workers=[{"env": env}])


def test_a_configuration_survives_being_written_as_json() -> None:
    config = read(workers=[{"slots": {"threads": 3}, "env": {"A": "b"}, "resources": {"gpu": 2}}])

    assert Config.model_validate_json(config.model_dump_json()) == config


def test_nothing_is_converted_and_nothing_can_be_changed() -> None:
    fault(workers=[{"max_jobs_per_child": "10"}])
    with pytest.raises(ValidationError):
        read().name = "other"


# --- what jobs get, what is kept, what is logged ------------------------------------------------------------------------


def test_defaults_retention_and_the_log_s_form_are_taken_as_written() -> None:
    config = read(
        defaults={"retries": 3, "backoff": 0, "factor": 1, "max_delay": "1m", "jitter": 1, "crash_limit": 0},
        retention={"results": "1h", "dead": "2d", "output": "30m", "max_size": "1MB"},
        log={"format": "json"},
    )

    said = config.defaults
    assert (said.retries, said.backoff, said.factor, said.max_delay, said.jitter, said.crash_limit) == (
        (3, 0.0, 1.0, 60.0, 1.0, 0)
    )
    kept = config.retention
    assert (kept.results, kept.dead, kept.output, kept.max_size) == (3600.0, 172800.0, 1800.0, 1_000_000)
    assert config.log.format == "json"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"defaults": {"retries": -1}}, "greater than or equal to 0"),
        ({"defaults": {"retries": 10**10}}, "less than or equal to 1000000000"),
        ({"defaults": {"retries": True}}, "valid integer"),
        ({"defaults": {"crash_limit": -1}}, "greater than or equal to 0"),
        ({"defaults": {"backoff": "-1s"}}, "is no duration; write seconds, or a text like 0s"),
        ({"defaults": {"backoff": None}}, "is no duration; write seconds, or a text like 0s"),
        ({"defaults": {"max_delay": float("inf")}}, "is no duration"),
        ({"defaults": {"factor": 0.5}}, "greater than or equal to 1"),
        ({"defaults": {"factor": float("nan")}}, "less than or equal to 1000"),
        ({"defaults": {"factor": 1e9}}, "less than or equal to 1000"),
        ({"defaults": {"jitter": 1.5}}, "less than or equal to 1"),
        ({"retention": {"results": 0}}, "0 is no duration"),
        ({"retention": {"dead": "0s"}}, "'0s' is no duration"),
        ({"retention": {"output": "1000000d"}}, "'1000000d' is no duration"),
        ({"retention": {"max_size": 0}}, "0 is no size"),
        ({"retention": {"max_size": "999kB"}}, "999000 bytes are less than a store takes without any job; write 1MB"),
        ({"retention": {"max_size": "2000000TB"}}, "is no size"),
        ({"log": {"format": "xml"}}, "'text' or 'json'"),
        ({"workers": [{"limits": 7}]}, "7 is no section of limits"),
        ({"workers": [{"limits": {"stack": 7}}]}, "no limit is called 'stack'; there are as, core, cpu"),
        ({"workers": [{"limits": {"nofile": 3}}]}, "limit nofile must be at least 32, not 3"),
        ({"workers": [{"limits": {"nofile": "1GB"}}]}, "limit nofile: '1GB' is no whole number"),
        ({"workers": [{"limits": {"as": "1MB"}}]}, "limit as must be at least"),
        ({"workers": [{"limits": {"fsize": "big"}}]}, "'big' is no size"),
        ({"workers": [{"cgroup": "4GB"}]}, "'4GB' is no section of cgroup limits"),
        ({"workers": [{"cgroup": {"io": 7}}]}, "no limit of a cgroup is called 'io'; there are cpu, memory, pids"),
        ({"workers": [{"cgroup": {"memory": "1MB"}}]}, "cgroup memory must be from 50000000 to"),
        ({"workers": [{"cgroup": {"memory": True}}]}, "True is no size"),
        ({"workers": [{"cgroup": {"pids": "many"}}]}, "cgroup pids: 'many' is no number"),
        ({"workers": [{"cgroup": {"pids": 20.5}}]}, "cgroup pids must be a whole number, not 20.5"),
        ({"workers": [{"cgroup": {"cpu": 0}}]}, "cgroup cpu must be from 0.01 to 1024, not 0"),
    ],
    ids=str,
)
def test_what_no_cluster_could_keep_to_is_refused(data: dict[str, Any], said: str) -> None:
    assert said in fault(**data)


def test_limits_are_read_as_sizes_or_numbers() -> None:
    config = read(workers=[{"user": "nobody", "limits": {"nofile": 256, "fsize": "10GB", "core": 0}}])

    assert config.workers[0].limits == {"nofile": 256, "fsize": 10**10, "core": 0}
    assert config.workers[0].user == "nobody"


def test_limits_of_a_worker_s_cgroup_are_read_as_a_size_or_numbers() -> None:
    config = read(workers=[{"cgroup": {"memory": "4GB", "pids": 200, "cpu": 1.5}}, {}])

    assert config.workers[0].cgroup == {"memory": 4 * 10**9, "pids": 200, "cpu": 1.5}
    assert config.workers[1].cgroup == {}
