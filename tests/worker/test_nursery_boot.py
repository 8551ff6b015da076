from __future__ import annotations

import sys

from tests.worker.recording_desk import a_worker


def test_a_nursery_and_its_children_load_neither_client_nor_master_nor_store() -> None:
    def loaded() -> list[str]:
        return [
            name for name in ("handle", "master", "memory") for module in sys.modules if module.endswith(f".{name}")
        ]

    def ask() -> str:
        import cluster as package

        job: str = package.current_job().id
        return job

    with a_worker(slots=1) as (desk, _):
        fence = desk.put(ask)
        assert desk.result_of(fence) == f"job-{fence}"
        assert desk.result_of(desk.put(loaded)) == []
