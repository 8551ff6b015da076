from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cluster.worker.nursery_boot
from tests.worker.recording_desk import a_worker

SCRIPT = cluster.worker.nursery_boot.__file__


def run(code: str, folder: Path) -> str:
    """Run code in an interpreter where package `house` is deferred, found in this folder."""
    boot = f"import runpy, sys; sys.path.insert(0, {str(folder)!r}); runpy.run_path({SCRIPT!r})['defer']('house')"
    full = f"{boot}\n{code}"
    return subprocess.run([sys.executable, "-c", full], check=True, capture_output=True, text=True, timeout=30).stdout


def make_house(folder: Path, extra: str = "") -> None:
    room = folder / "house" / "room"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text("")
    (room / "chair.py").write_text("LEGS = 4\n")
    source = f"print('built')\nfrom house.room.chair import LEGS as legs\n__all__ = ['legs']\n{extra}"
    (folder / "house" / "__init__.py").write_text(source)


def test_a_module_of_the_package_is_imported_without_its_init(tmp_path: Path) -> None:
    make_house(tmp_path)

    assert run("from house.room.chair import LEGS; print(LEGS)", tmp_path) == "4\n"


def test_the_first_name_that_is_asked_for_runs_the_init_once(tmp_path: Path) -> None:
    make_house(tmp_path)

    assert run("import house; print(house.legs, house.legs)", tmp_path) == "built\n4 4\n"
    assert run("from house import legs; print(legs)", tmp_path) == "built\n4\n"
    assert run("from house import *; print(legs)", tmp_path) == "built\n4\n"


def test_a_name_that_is_not_there_is_missed_as_usual(tmp_path: Path) -> None:
    make_house(tmp_path)

    assert run("import house; print(hasattr(house, 'roof'), hasattr(house, 'legs'))", tmp_path) == "built\nFalse True\n"


def test_the_package_s_own_way_with_missing_names_holds(tmp_path: Path) -> None:
    make_house(tmp_path, "def __getattr__(name): return name.upper()\n")

    assert run("import house; print(house.roof, house.cellar)", tmp_path) == "built\nROOF CELLAR\n"


def test_a_nursery_and_its_children_do_without_the_public_names_until_a_job_asks() -> None:
    def loaded() -> bool:
        return "cluster.client" in sys.modules

    def ask() -> str:
        import cluster as package

        job: str = package.current_job().id
        return job

    with a_worker(slots=1) as (desk, _):
        assert desk.result_of(desk.put(loaded)) is False
        fence = desk.put(ask)
        assert desk.result_of(fence) == f"job-{fence}"
