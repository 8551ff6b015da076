from __future__ import annotations

import pytest

from cluster.errors import Refused
from cluster.master.draining import set_draining
from cluster.master.listing import workers
from tests.core.builders import spec
from tests.master.rig import Rig


def test_a_worker_is_drained_and_undrained_by_id_or_by_name() -> None:
    with Rig() as rig:
        rig.register("w#1")
        rig.submit(spec("a"))

        set_draining(rig.master, "w#1", draining=True)
        assert [info.state for info in workers(rig.master)] == ["draining"]
        assert rig.poll(name="w#1") == []

        set_draining(rig.master, "w", draining=False)
        assert [info.state for info in workers(rig.master)] == ["ready"]
        assert len(rig.poll(name="w#1")) == 1


def test_a_worker_that_is_not_there_is_refused_with_the_names_of_those_that_are() -> None:
    with Rig() as rig:
        rig.register("w#1")

        with pytest.raises(Refused, match=r"no worker 'v' is registered; registered are: w$"):
            set_draining(rig.master, "v", draining=True)


def test_of_several_workers_of_one_name_one_must_be_named_by_its_id() -> None:
    with Rig() as rig:
        rig.register("w#1")
        rig.register("w#2")

        with pytest.raises(Refused, match=r"2 workers are named 'w'; name one by its id: w#1, w#2"):
            set_draining(rig.master, "w", draining=True)
