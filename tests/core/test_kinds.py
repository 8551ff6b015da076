from __future__ import annotations

import msgspec

from cluster.core.kinds import Kinds
from cluster.core.records import JobSpec, Options
from tests.core.builders import spec


def arrived(sent: JobSpec) -> JobSpec:
    """The job as it comes over the network: with records of its own."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=JobSpec)


def test_jobs_of_one_kind_share_what_they_have_alike_and_stay_what_they_are() -> None:
    kinds = Kinds()
    sent = [spec("a", Options(priority=3, tags=("x",))), spec("b"), spec("c", Options(priority=3, tags=("x",)))]
    came = [arrived(one) for one in sent]

    for one in came:
        kinds.share(one)

    assert came == sent
    first, _, third = came
    assert first.options is third.options
    assert first.function is third.function
    assert first.delay is third.delay


def test_what_differs_is_not_shared() -> None:
    kinds = Kinds()
    came = [
        arrived(spec("a", Options(priority=1), delay=1.5)),
        arrived(spec("b", Options(priority=2), function=b"another", delay=2.5)),
    ]

    for one in came:
        kinds.share(one)

    assert [one.options.priority for one in came] == [1, 2]
    assert came[1].function == b"another"
    assert [one.delay for one in came] == [1.5, 2.5]


def test_a_job_with_the_default_options_has_the_record_of_all_who_have_them() -> None:
    one = arrived(spec("a"))

    Kinds().share(one)

    assert one.options is JobSpec("other", b"", b"").options


def test_what_is_kept_is_bounded() -> None:
    kinds = Kinds()
    options, digests = 0, 0
    for number in range(3 * 256):
        kinds.share(arrived(spec(options=Options(priority=number), function=b"%d" % number)))
        options, digests = max(options, len(kinds._options)), max(digests, len(kinds._digests))

    assert (options, digests) == (257, 257), "and the one with which it is full"
