from __future__ import annotations

from cluster.client.options import parse_options
from cluster.client.submission import id_of_key, spec_of


def test_what_the_caller_said_is_in_the_record() -> None:
    wanted = parse_options({"delay": 5, "expires": "1m", "after": ["a"], "key": "k", "priority": 3})

    spec = spec_of(wanted, "j", b"f", (b"body", ("b", "a")), chunk=(7, "batch", 21))

    assert (spec.id, spec.function, spec.args, spec.options.priority) == ("j", b"f", b"body", 3)
    assert (spec.after, spec.inputs) == (("a", "b"), ("b", "a"))
    assert (spec.delay, spec.expires, spec.key) == (5.0, 60.0, "k")
    assert (spec.items, spec.batch, spec.first) == (7, "batch", 21)


def test_a_key_names_one_job_for_ever() -> None:
    assert id_of_key("nightly") == id_of_key("nightly")
    assert id_of_key("nightly") != id_of_key("weekly")
    assert id_of_key("nightly").startswith("key-")
