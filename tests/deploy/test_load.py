from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.deploy.load import MAX_FILE_BYTES, dotted, load_config
from cluster.deploy.schema import Config
from cluster.errors import Refused


def load(folder: Path, text: str, overrides: dict[str, Any] | None = None, **environment: str) -> Config:
    file = folder / "lab.yaml"
    file.write_text(text)
    return load_config(file, environment=environment, overrides=overrides)


def fault(folder: Path, text: str, overrides: dict[str, Any] | None = None, **environment: str) -> str:
    with pytest.raises(Refused) as caught:
        load(folder, text, overrides, **environment)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder / "lab.yaml"), "lab.yaml")


def test_a_file_is_read_and_says_where_it_lies(tmp_path: Path) -> None:
    config = load(tmp_path, "name: lab\nmaster:\n  store: sqlite:///x.db\n")

    assert config.name == "lab"
    assert config.master.store == f"sqlite:///{tmp_path}/x.db"
    assert config.file == tmp_path / "lab.yaml"


def test_an_empty_file_is_a_whole_configuration(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n").name == "cluster"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: lab\nmaster:\n  bnd: x\n", "lab.yaml:3: master.bnd is not known; did you mean master.bind?"),
        ("mastr: {}\n", "lab.yaml:1: mastr is not known; did you mean master?"),
        ("workers:\n  - slots: 1\n  - slts: 2\n", "lab.yaml:3: workers[1].slts is not known; did you mean workers[1].slots?"),
        ("queues:\n  gpu:\n    prio: 3\n", "lab.yaml:3: queues.gpu.prio is not known; did you mean queues.gpu.priority?"),
        ("drain: {xyz: 1}\n", "lab.yaml:1: drain.xyz is not known; drain takes timeout"),
        ("name: 3\n", "lab.yaml:1: name can't be 3; it takes a text; put it in quotes if it looks like a number"),
        ("\nlog: loud\n", "lab.yaml:2: log can't be 'loud'; it takes a section of `key: value` lines"),
        ("workers: 3\n", "lab.yaml:1: workers can't be 3; it takes a list"),
        ("workers: []\n", "lab.yaml:1: workers can't be []; it takes at least one item"),
        ("name: a b\n", "lab.yaml:1: name can't be 'a b'; it takes a name: letters, digits"),
        ("log:\n  level: loud\n", "lab.yaml:2: log.level can't be 'loud'; it takes 'debug', 'info', 'warning' or 'error'"),
        ("workers:\n- resources: {gpu: two}\n", "lab.yaml:2: workers[0].resources.gpu can't be 'two'; it takes a whole number"),
        ("drain:\n  timeout: soon\n", "lab.yaml:2: drain.timeout: 'soon' is no duration; write seconds"),
        ("workers:\n- host: node1\n", "lab.yaml:2: workers[0].host: host 'node1': workers on other machines are not there"),
        ("name: a\nname: b\n", "lab.yaml:2: name is written twice, first in line 1; keep one of them"),
        ("- a\n", "lab.yaml:1: a configuration is a list of `key: value` lines, not list"),
        ("name: [\n", "lab.yaml:2: this is not YAML: "),
        ("name: !!python/object:os.system {}\n", "lab.yaml:1: this is not YAML: could not determine a constructor"),
        ("a: &a [*a]\n", "lab.yaml:1: this nests too deeply, or says too much"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_the_line_and_the_nearest_key(tmp_path: Path, text: str, said: str) -> None:
    assert fault(tmp_path, text).startswith(said)


def test_of_several_mistakes_the_first_in_the_file_is_told_and_the_rest_counted(tmp_path: Path) -> None:
    said = fault(tmp_path, "name: lab\nfoo: 1\nmaster: {bar: 2}\n")

    assert said.startswith("lab.yaml:2: foo is not known")
    assert said.endswith("(and 1 more)")


def test_a_few_lines_of_aliases_do_not_become_millions_of_keys(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    assert "says too much" in fault(tmp_path, "\n".join(lines))


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"there is no file .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml", environment={})


def test_a_folder_a_binary_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is a folder"):
        load_config(tmp_path, environment={})
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="can't be read"):
        load_config(file, environment={})
    file.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(Refused, match="is larger than"):
        load_config(file, environment={})


def test_the_environment_overrides_the_file_and_the_caller_both(tmp_path: Path) -> None:
    text = "drain: {timeout: 1s}\nlog: {level: info}\n"

    config = load(tmp_path, text, {"log__level": "error"}, CLUSTER__LOG__LEVEL="debug", CLUSTER__DRAIN__TIMEOUT="9s")

    assert config.drain.timeout == 9.0
    assert config.log.level == "error"


def test_an_override_reaches_into_lists_and_makes_sections(tmp_path: Path) -> None:
    config = load(
        tmp_path, "workers:\n- slots: 1\n", CLUSTER__WORKERS__0__SLOTS="7", CLUSTER__MASTER__BIND="tcp://127.0.0.1:0"
    )

    assert config.workers[0].slots == 7
    assert config.master.bind == "tcp://127.0.0.1:0"


def test_a_whole_section_can_be_put_in_place(tmp_path: Path) -> None:
    config = load(tmp_path, "workers:\n- slots: 1\n- slots: 2\n", {"workers": [{"slots": 5}]})

    assert [worker.slots for worker in config.workers] == [5]


@pytest.mark.parametrize(
    ("overrides", "environment", "said"),
    [
        ({}, {"CLUSTER__MASTER__BND": "x"}, "CLUSTER__MASTER__BND: master.bnd is not known; did you mean master.bind?"),
        ({"master__bnd": "x"}, {}, "override master__bnd: master.bnd is not known"),
        ({}, {"CLUSTER__WORKERS__5__SLOTS": "1"}, "CLUSTER__WORKERS__5__SLOTS: workers has 1 items, counted from 0"),
        ({}, {"CLUSTER__NAME__X": "1"}, "CLUSTER__NAME__X: name holds one value, and nothing called 'x'"),
        ({}, {"CLUSTER__NAME": "["}, "the environment's CLUSTER__NAME='[' is no YAML value"),
        ({"workers": [{"sots": 1}]}, {}, "override workers: workers[0].sots is not known"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_override_names_the_override(
    tmp_path: Path, overrides: dict[str, Any], environment: dict[str, str], said: str
) -> None:
    assert fault(tmp_path, "name: lab\nworkers:\n- slots: 1\n", overrides, **environment).startswith(said)


def test_a_place_is_written_with_dots_and_brackets() -> None:
    assert dotted(("workers", 0, "env", "A")) == "workers[0].env.A"
    assert dotted(()) == ""
