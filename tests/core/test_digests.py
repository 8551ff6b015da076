from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from cluster.core.digests import is_genuine, name_function

BLOB = name_function(b"body", "3.11", "3.0", "here.f", reusable=False)


def test_the_same_function_has_the_same_name_everywhere() -> None:
    again = name_function(b"body", "3.11", "3.0", "here.f", reusable=False)

    assert again == BLOB
    assert is_genuine(BLOB)
    assert (
        BLOB.digest.hex() == "fecf2eded7cd052b322f34fe5ef178ab"
    )  # a master of this version must know what any client has named


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"bodx"},
        {"python": "3.12"},
        {"pickler": "3.1"},
        {"name": "here.g"},
        {"reusable": True},
        {"digest": b""},
    ],
)
def test_all_that_a_record_says_is_in_its_name(change: dict[str, Any]) -> None:
    assert not is_genuine(structs.replace(BLOB, **change))


def test_what_ends_one_part_can_t_begin_the_next() -> None:
    shifted = structs.replace(BLOB, python="3.113", pickler=".0")

    assert BLOB.python + BLOB.pickler == shifted.python + shifted.pickler
    assert not is_genuine(shifted)
