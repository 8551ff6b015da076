from __future__ import annotations

from collections import namedtuple
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from cluster.client.options import KNOWN, NO_OPTIONS, SubmitOptions, check_args, parse_options
from cluster.client.retries import RetryPolicy
from cluster.core.records import DEFAULT_OPTIONS, JobInfo, RetryRule
from cluster.core.states import JobState


class FakeJob(Future[int]):
    def __init__(self, job: str) -> None:
        super().__init__()
        self.id = job


class OwnError(Exception):
    pass


# --- what is taken ------------------------------------------------------------------------------------------------


def test_no_options_are_the_shared_defaults_of_the_design() -> None:
    submission = parse_options({})

    assert submission is NO_OPTIONS
    assert submission.options is DEFAULT_OPTIONS
    assert (submission.after, submission.delay, submission.at, submission.expires, submission.key) == (
        (),
        0,
        None,
        None,
        "",
    )


def test_every_option_lands_in_its_field() -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    given: SubmitOptions = {
        "name": "fit",
        "queue": "gpu",
        "priority": -5,
        "retries": 3,
        "crash_limit": 0,
        "timeout": "10m",
        "at": when,
        "expires": timedelta(hours=1),
        "after": ["s-1"],
        "key": "k",
        "resources": {"gpu": 2, "disk": 1},
        "memory": "2GB",
        "labels": {"zone": "lab"},
        "tags": ["b", "a", "b"],
        "result_ttl": "1d",
        "echo": True,
    }

    submission = parse_options(given)

    options = submission.options
    assert (options.name, options.queue, options.priority, options.crash_limit) == ("fit", "gpu", -5, 0)
    assert options.retry == RetryRule(max_retries=3)
    assert (options.timeout, options.result_ttl) == (600.0, 86400.0)
    assert (options.resources, options.labels) == ((("disk", 1), ("gpu", 2)), (("zone", "lab"),))
    assert (options.tags, options.memory) == (("b", "a"), (2 * 10**9,))
    assert options.echo is True
    assert (submission.at, submission.expires, submission.after, submission.key) == (
        when.timestamp(),
        3600.0,
        ("s-1",),
        "k",
    )
    assert {*given, "delay"} == set(KNOWN) == set(SubmitOptions.__annotations__)


def test_none_means_the_default_where_the_default_is_none() -> None:
    given: dict[str, Any] = dict.fromkeys(("name", "timeout", "delay", "at", "expires", "key", "memory"))

    assert parse_options(given) == NO_OPTIONS


def test_equal_options_are_one_record() -> None:
    first = parse_options({"retries": RetryPolicy(max_retries=2), "tags": ("a",)})
    second = parse_options({"tags": ["a"], "retries": 2})

    assert first.options is second.options


def test_the_same_words_are_parsed_once() -> None:
    assert parse_options({"retries": 3, "timeout": "1m"}) is parse_options({"retries": 3, "timeout": "1m"})


def test_what_equals_a_right_value_but_is_not_one_is_refused_even_if_the_right_one_was_seen() -> None:
    parse_options({"retries": 1, "priority": 1})

    for wrong in ({"retries": True, "priority": 1}, {"retries": 1.0, "priority": 1}):
        with pytest.raises(TypeError, match="'retries' takes a whole number"):
            parse_options(wrong)


def test_many_different_options_are_not_all_remembered() -> None:
    from cluster.client import options

    for n in range(3000):
        parse_options({"name": f"job-{n}"})

    assert len(options._parsed) <= 1024
    assert len(options._shared) <= 1024


def test_given_options_override_those_of_a_task() -> None:
    defaults = parse_options({"retries": 3, "timeout": 60, "delay": 5, "tags": ["a"]})

    submission = parse_options({"timeout": None, "priority": 2}, defaults)

    assert submission.options.retry.max_retries == 3
    assert (submission.options.timeout, submission.options.priority, submission.delay) == (None, 2, 5.0)
    assert parse_options({}, defaults) is defaults


def test_a_moment_overrides_a_tasks_delay_and_the_other_way_round() -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)

    at = parse_options({"at": when}, parse_options({"delay": 5}))
    delayed = parse_options({"delay": 5}, parse_options({"at": when}))

    assert (at.delay, at.at) == (0.0, when.timestamp())
    assert (delayed.delay, delayed.at) == (5.0, None)


# --- durations and moments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (5, 5.0),
        (0.25, 0.25),
        (timedelta(minutes=2), 120.0),
        ("250ms", 0.25),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        (" 1h 30m ", 5400.0),
        ("7d", 604800.0),
        ("1.5h", 5400.0),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_a_duration_may_be_seconds_a_timedelta_or_a_text(given: Any, seconds: float) -> None:
    assert parse_options({"timeout": given}).options.timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given",
    ["", " ", "10", "10x", "m", "-5s", "1m1h", "1h1h", "٣s", "1e3s", 0, -1, float("nan"), float("inf"), 10**400, 4e9]
    + [timedelta(0), timedelta(seconds=-1), "0s"],
)
def test_a_duration_that_cannot_be_meant_is_refused(given: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^option 'timeout' can't be .*; write a .*duration|^option .* write a number of"
    ):
        parse_options({"timeout": given})


@pytest.mark.parametrize("given", [True, b"10m", [1], datetime(2030, 1, 1, tzinfo=UTC)])
def test_a_duration_of_another_type_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^option 'expires' takes a number of seconds, a timedelta, or a text like"):
        parse_options({"expires": given})


def test_a_delay_may_be_zero_and_not_below() -> None:
    assert parse_options({"delay": 0}) == NO_OPTIONS
    with pytest.raises(ValueError, match="'delay' can't be -1; write a duration from zero on"):
        parse_options({"delay": -1})


def test_a_moment_in_any_time_zone_is_wall_time() -> None:
    here = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))

    assert parse_options({"at": here}).at == datetime(2030, 1, 1, 10, tzinfo=UTC).timestamp()


def test_a_naive_moment_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"'at' needs a datetime with a time zone, .*2030-01-01.* when.astimezone\(\)"):
        parse_options({"at": datetime(2030, 1, 1)})  # noqa: DTZ001


def test_delay_and_at_exclude_each_other() -> None:
    with pytest.raises(TypeError, match="'delay' and 'at' exclude each other"):
        parse_options({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)})


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        (200_000_000, (200_000_000,)),
        ("200000000", (200_000_000,)),
        ("2GB", (2 * 10**9,)),
        ("1.5GiB", (3 * 2**29,)),
        (("2GB", "4GB", 16 * 10**9), (2 * 10**9, 4 * 10**9, 16 * 10**9)),
        (["2GB", "4GB"], (2 * 10**9, 4 * 10**9)),
    ],
)
def test_memory_is_one_limit_or_several_that_grow(given: Any, limits: tuple[int, ...]) -> None:
    assert parse_options({"memory": given}).options.memory == limits


@pytest.mark.parametrize("given", [0, 1, -1, "49MB", (), ("4GB", "2GB"), ("2GB", "2GB"), ["50MB"] * 11, "lots", ""])
def test_a_limit_that_cannot_be_meant_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^option 'memory' can't be .*; write a "):
        parse_options({"memory": given})


@pytest.mark.parametrize("given", [1e9, True, b"2GB", {"2GB"}, (None,)])
def test_a_limit_of_another_type_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^option 'memory' takes a number of bytes, or a text like '500MB'"):
        parse_options({"memory": given})


# --- jobs to wait for ---------------------------------------------------------------------------------------------


def info(job: str) -> JobInfo:
    return JobInfo(id=job, name="n", state=JobState.QUEUED)


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("s-1", ("s-1",)),
        (FakeJob("s-1"), ("s-1",)),
        (info("s-1"), ("s-1",)),
        ((FakeJob("s-2"), "s-1", FakeJob("s-2")), ("s-2", "s-1")),
        ((job for job in ["s-1"]), ("s-1",)),
        ((), ()),
    ],
)
def test_after_takes_jobs_ids_and_iterables_of_them(given: Any, ids: tuple[str, ...]) -> None:
    assert parse_options({"after": given}).after == ids


@pytest.mark.parametrize("given", [3, None, [3], "", [""], Future(), [Future()]])
def test_after_refuses_what_is_no_job(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^option 'after' takes "):
        parse_options({"after": given})


def test_after_refuses_a_batch_with_what_to_write() -> None:
    class Batch:
        id = "s-1"

        def jobs(self) -> list[Any]:
            return []

    with pytest.raises(TypeError, match=r"write after=batch.jobs\(\)"):
        parse_options({"after": Batch()})


# --- retries ------------------------------------------------------------------------------------------------------


def test_errors_to_retry_on_become_the_names_that_certificates_have() -> None:
    policy = RetryPolicy(max_retries=2, retry_on=(OSError, OwnError, "TimeoutError", "requests.Timeout"))

    retry = parse_options({"retries": policy}).options.retry

    assert retry.retry_on == ("builtins.OSError", f"{__name__}.OwnError", "builtins.TimeoutError", "requests.Timeout")


def test_one_error_to_retry_on_needs_no_tuple() -> None:
    policy = RetryPolicy(max_retries=2, retry_on=OSError)

    assert parse_options({"retries": policy}).options.retry.retry_on == ("builtins.OSError",)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"max_retries": -1}, ValueError, "'retries.max_retries' can't be -1"),
        ({"max_retries": 1.5}, TypeError, "'retries.max_retries' takes a whole number"),
        ({"backoff": -1}, ValueError, "'retries.backoff' can't be -1"),
        ({"factor": 0.5}, ValueError, "'retries.factor' can't be 0.5; write a number from 1 to 1000"),
        ({"factor": float("nan")}, ValueError, "'retries.factor' can't be nan"),
        ({"jitter": 2}, ValueError, "'retries.jitter' can't be 2; write a number from 0 to 1"),
        ({"retry_on": (int,)}, TypeError, "'retries.retry_on' takes classes of exceptions"),
        ({"retry_on": "NoSuchError"}, TypeError, "'retries.retry_on' takes classes of exceptions"),
    ],
)
def test_a_policy_is_checked_field_by_field(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        parse_options({"retries": RetryPolicy(**fields)})


def test_a_policys_durations_may_be_texts() -> None:
    policy = RetryPolicy(max_retries=1, backoff="250ms", max_delay="5m")

    retry = parse_options({"retries": policy}).options.retry

    assert (retry.backoff, retry.max_delay) == (0.25, 300.0)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_an_unknown_option_is_answered_with_the_nearest_and_all_of_them() -> None:
    with pytest.raises(TypeError) as caught:
        parse_options({"retrys": 3})

    text = str(caught.value)
    assert text.startswith("unknown option 'retrys'; did you mean 'retries'? The options are after, at, ")
    assert all(name in text for name in KNOWN)
    assert text.endswith("goes into kwargs: submit(func, args, {'retrys': ...})")


def test_an_unknown_option_that_resembles_none_is_answered_with_all_of_them() -> None:
    with pytest.raises(TypeError, match=r"^unknown option 'zzz'\. The options are after, "):
        parse_options({"zzz": 3})


@pytest.mark.parametrize("name", ["idempotent"])
def test_an_option_of_a_later_version_says_so(name: str) -> None:
    with pytest.raises(TypeError, match=f"^option '{name}' is not there yet; leave it out$"):
        parse_options({name: 1})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"name": 3}, TypeError),
        ({"name": ""}, ValueError),
        ({"queue": None}, TypeError),
        ({"queue": "x" * 2000}, ValueError),
        ({"priority": "high"}, TypeError),
        ({"priority": 2**40}, ValueError),
        ({"retries": -1}, ValueError),
        ({"retries": "3"}, TypeError),
        ({"crash_limit": None}, TypeError),
        ({"key": b"k"}, TypeError),
        ({"resources": {"gpu": 0}}, ValueError),
        ({"resources": {"gpu": 0.5}}, TypeError),
        ({"resources": ["gpu"]}, TypeError),
        ({"labels": {"zone": 1}}, TypeError),
        ({"labels": "zone"}, TypeError),
        ({"tags": "night"}, TypeError),
        ({"tags": [1]}, TypeError),
        ({"tags": [str(n) for n in range(10_001)]}, ValueError),
        ({"result_ttl": None}, TypeError),
        ({"result_ttl": 0}, ValueError),
    ],
)
def test_a_wrong_value_is_refused_by_the_options_name(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^option '{next(iter(given))}'"):
        parse_options(given)


# --- args and kwargs ----------------------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")  # noqa: PYI024 - the plain kind is under test


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            [1],
            r"^args must be a tuple, not list: write submit\(len, \(\[1\],\)\) to pass it as one argument, or submit",
        ),
        (-3, r"^args must be a tuple, not int: write submit\(len, \(-3,\)\)$"),
        ("abc", r"^args must be a tuple, not str: write submit\(len, \('abc',\)\)$"),
        ({"a": 1}, r"or submit\(len, \(\), \{'a': 1\}\) to pass keyword arguments$"),
        (Point(1, 2), r"^args must be exactly a tuple, not Point \(a named tuple\): write submit\(len, \(Point"),
        (None, r"not NoneType: write submit\(len, \(None,\)\)$"),
    ],
)
def test_args_that_are_no_tuple_are_answered_with_what_to_write(args: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        check_args(args, None, len)


def test_a_long_argument_is_shown_shortened() -> None:
    with pytest.raises(TypeError) as caught:
        check_args("x" * 100_000)

    assert len(str(caught.value)) < 200


def test_a_tuple_is_taken() -> None:
    check_args(())
    check_args((1, [2]))


def test_kwargs_are_a_dict_with_names_or_none() -> None:
    check_args((), None)
    check_args((), {"x": 1})

    with pytest.raises(TypeError, match=r"^kwargs must be a dict or None, not list: write submit\(func, args, "):
        check_args((), [])
    with pytest.raises(TypeError, match=r"^kwargs must have names as keys, not 1 \(int\)$"):
        check_args((), {1: 2})
