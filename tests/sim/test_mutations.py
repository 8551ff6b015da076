from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sim.mutations import MUTATIONS, ROOT, TIMEOUT_SECONDS, Mutation, hunt, mutate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_simulator_finds_it_when(mutation: Mutation) -> None:
    found = hunt(mutation)

    assert found.seed >= 0, f"no seed found {mutation.name!r}: {found.sentence}"


def test_every_mutation_changes_what_it_means_to(tmp_path: Path) -> None:
    for mutation in MUTATIONS:
        original = (ROOT / "cluster" / mutation.file).read_text()
        copy = tmp_path / "copy.py"
        copy.write_text(original)

        mutate(copy, mutation)

        compile(copy.read_text(), mutation.file, "exec")
        assert copy.read_text() != original


def test_a_mutation_whose_text_is_gone_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "core.py"
    file.write_text("fine = True\n")

    with pytest.raises(ValueError, match="occurs 0 times"):
        mutate(file, Mutation("nothing", "core.py", "not there", ""))
