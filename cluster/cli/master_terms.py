"""What a master says to jobs that say nothing themselves, and how long it keeps things: options of `cluster master`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.jobs import as_number, read_duration
from cluster.errors import Refused

if TYPE_CHECKING:
    from cluster.core.records import Options
    from cluster.deploy.schema import Config
    from cluster.master.retention import Retention


@dataclass(frozen=True, slots=True)
class MasterTerms:
    """As `defaults` and `retention` in a configuration."""

    default_retries: Annotated[int, typer.Option(help="Re-runs of a job that says nothing itself.")] = 0
    default_backoff: Annotated[str, typer.Option(help="Its wait before the first re-run.")] = "1s"
    default_factor: Annotated[float, typer.Option(help="Each further wait is so many times longer.")] = 2.0
    default_max_delay: Annotated[str, typer.Option(help="The longest such wait.")] = "5m"
    default_jitter: Annotated[float, typer.Option(help="Part of a wait that chance may take away.")] = 0.1
    default_crash_limit: Annotated[int, typer.Option(help="Its re-runs after a crash or a lost worker.")] = 5
    retention_results: Annotated[str, typer.Option(help="How long its outcome is kept.")] = "7d"
    retention_dead: Annotated[str, typer.Option(help="How long dead letters are kept at least.")] = "30d"
    retention_output: Annotated[str, typer.Option(help="How long what jobs printed is kept.")] = "7d"
    retention_max_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Beyond it the oldest ended jobs are dropped.")
    ] = "10GB"


def read_defaults(terms: MasterTerms) -> Options:
    """What jobs get that say nothing themselves. Raises `Refused` with what to write."""
    from cluster.client import option_values as values
    from cluster.core.bounds import FACTORS
    from cluster.core.records import Options, RetryRule

    try:
        retry = RetryRule(
            max_retries=values.count("default-retries", terms.default_retries),
            backoff=values.delay("default-backoff", as_number(terms.default_backoff)),
            factor=values.fraction("default-factor", terms.default_factor, *FACTORS),
            max_delay=values.delay("default-max-delay", as_number(terms.default_max_delay)),
            jitter=values.fraction("default-jitter", terms.default_jitter, 0.0, 1.0),
        )
        crash_limit = values.count("default-crash-limit", terms.default_crash_limit)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    return Options(
        retry=retry, crash_limit=crash_limit, result_ttl=read_duration("retention-results", terms.retention_results)
    )


def read_retention(terms: MasterTerms) -> Retention:
    """How long things are kept. Raises `Refused` with what to write."""
    from cluster.master.retention import Retention, check_max_bytes

    text = terms.retention_max_size
    try:
        max_bytes = check_max_bytes(int(text) if text.isdecimal() else _read_size(text))
    except ValueError as error:
        raise Refused(f"--retention-max-size: {error}") from None
    return Retention(
        output_seconds=read_duration("retention-output", terms.retention_output),
        max_bytes=max_bytes,
    )


def _read_size(text: str) -> int:
    from cluster.deploy.quantities import read_size  # a keeper writes plain bytes, and its master needs no pydantic

    return read_size(text)


def defaults_of(config: Config) -> Options:
    """The same of a configuration."""
    from cluster.core.records import Options, RetryRule

    said = config.defaults
    retry = RetryRule(
        max_retries=said.retries,
        backoff=said.backoff,
        factor=said.factor,
        max_delay=said.max_delay,
        jitter=said.jitter,
    )
    return Options(retry=retry, crash_limit=said.crash_limit, result_ttl=config.retention.results)


def retention_of(config: Config) -> Retention:
    """The same of a configuration."""
    from cluster.master.retention import Retention

    return Retention(output_seconds=config.retention.output, max_bytes=config.retention.max_size)
