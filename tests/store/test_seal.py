from __future__ import annotations

import pytest

from cluster.store.seal import MAX_SEALED_WHOLE_BYTES, Seal, digest_of, is_payload_of

SEAL = Seal(b"k" * 32)


def test_a_seal_fits_what_it_was_made_over() -> None:
    mac = SEAL.over("jobs", 1, "a", None, b"x", 2.5)

    assert SEAL.fits(mac, "jobs", 1, "a", None, b"x", 2.5)


@pytest.mark.parametrize(
    "said",
    [
        ("leases", 1, "ab", b"x"),  # another table
        ("jobs", 2, "ab", b"x"),
        ("jobs", 1, "a", b"x"),
        ("jobs", 1, "ab", b"y"),
        ("jobs", 1, "ab", "x"),  # another type
        ("jobs", 1, "a", "b", b"x"),
        ("jobs", 1, "ab", None),
    ],
)
def test_a_seal_fits_nothing_else(said: tuple[str | int | bytes | None, ...]) -> None:
    assert not SEAL.fits(SEAL.over("jobs", 1, "ab", b"x"), *said)


def test_another_key_makes_another_seal() -> None:
    assert not Seal(b"l" * 32).fits(SEAL.over("jobs"), "jobs")


@pytest.mark.parametrize("mac", [None, "", b"", 7])
def test_what_is_no_seal_fits_nothing(mac: object) -> None:
    assert not SEAL.fits(mac, "jobs")


def test_a_short_key_is_a_defect() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        Seal(b"abc")


def test_only_a_long_payload_is_sealed_by_its_digest() -> None:
    long = b"x" * (MAX_SEALED_WHOLE_BYTES + 1)

    digest = digest_of(long)

    assert digest is not None
    assert digest_of(long[1:]) is None
    assert is_payload_of(digest, long)
    assert not is_payload_of(digest, long[:-1] + b"y")
    assert not is_payload_of(digest, None)
    assert not is_payload_of(digest, b"")
    assert is_payload_of(None, b"anything: the seal itself covers it")
