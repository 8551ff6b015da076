"""What a configuration file may say: every key, its type, its bounds, its default, in one place.

The reference page is printed from here (`reference.py`), so each key says what it is for. Validation gets the folder of
the file as its context, and every relative path comes out absolute: whoever reads a `Config` need not know where it came
from. Keys of things that are still to be built are here too, marked `NotYet`: they take their default and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from cluster.core.bounds import FACTORS
from cluster.deploy.identity import NAME, check_hosts
from cluster.deploy.quantities import Delay, Duration, Size, read_group_limits, read_size
from cluster.errors import Refused
from cluster.master.retention import check_max_bytes
from cluster.store.locate import open_store
from cluster.wire.address import parse_address
from cluster.worker import limits

# Logs and records of these lie beside the workers'.
RESERVED_NAMES = frozenset({"master", "keeper"})
MAX_WORKERS = 1000
MAX_SLOTS = 1024
MAX_THREADS = 4096
MAX_COUNT = 1_000_000_000
# A socket's path may have 108 bytes with its end on Linux, 104 on macOS.
MAX_SOCKET_PATH_BYTES = 100


@dataclass(frozen=True)
class NotYet:
    """Marks a key whose meaning is still to be built."""

    what: str
    only: object  # the one value that it takes: its default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        """Check after the type: a typing error is told as one."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: object) -> object:
        if value != self.only:
            raise ValueError(f"{self.what} is not there yet; leave this key out")
        return value


def key(default: Any, says: str) -> Any:  # noqa: ANN401 - the default as the file would say it; the field has the type
    """One key of a section."""
    return Field(default=default, description=says)


class Section(BaseModel):
    """What all sections share: nothing unknown, nothing converted, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


# --- texts with a meaning -------------------------------------------------------------------------------------------


def _absolute(text: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    return text if folder is None else str(Path(folder, Path(text).expanduser()))


def _read_bind(text: str, info: ValidationInfo) -> str:
    scheme, _, rest = text.partition("://")
    if scheme == "unix" and rest:
        text = f"unix://{_absolute(rest, info)}"
    try:
        parse_address(text)
    except Refused as error:
        raise ValueError(str(error)) from error
    path = text.removeprefix("unix://")
    if path != text and len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"the socket's path {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes; choose a shorter one")
    return text


def _read_store(text: str, info: ValidationInfo) -> str:
    path = text.removeprefix("sqlite:///")
    if path != text and path and not path.startswith("/"):
        text = f"sqlite:///{_absolute(path, info)}"
    try:
        open_store(text)  # touches nothing: it only says whether an adapter knows this form
    except Refused as error:
        raise ValueError(str(error)) from error
    return text


PathText = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
Bind = Annotated[str, AfterValidator(_read_bind)]
StoreUrl = Annotated[str, AfterValidator(_read_store)]
Name = Annotated[str, Field(pattern=NAME)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


# --- certificates ---------------------------------------------------------------------------------------------------


class Certificate(Section):
    """The master's certificate, its key, and the authority that signed it and all others of the cluster."""

    ca: PathText
    cert: PathText
    key: PathText


Tls = Literal["off", "auto"] | Certificate


def _read_tls(value: object, info: ValidationInfo) -> Tls:
    if value is False or value == "off":  # YAML 1.1 reads the bare word as false
        return "off"
    if value == "auto":
        return "auto"
    if isinstance(value, Certificate):
        return value
    if isinstance(value, dict) and set(value) == set(Certificate.model_fields):
        try:
            return Certificate.model_validate(value, context=info.context)
        except ValidationError:
            pass  # one sentence for all that it can be
    raise ValueError(
        f"{value!r} is no way to have TLS; write off, auto (certificates are made at `up`), "
        f"or {{ca: FILE, cert: FILE, key: FILE}}"
    )


def _write_tls(tls: Tls) -> object:
    return tls if isinstance(tls, str) else tls.model_dump()


def _read_hosts(hosts: list[str]) -> list[str]:
    try:
        return list(check_hosts(hosts)) if hosts else []
    except Refused as error:
        raise ValueError(str(error)) from error


# --- the master and what it keeps -----------------------------------------------------------------------------------


class Master(Section):
    """The process that owns the queue."""

    bind: Bind = key(
        "tcp://127.0.0.1:7601",
        "Where it listens: `tcp://HOST:PORT` or `unix://PATH`. Port 0: a free one, chosen at `up`.",
    )
    store: StoreUrl = key(
        "sqlite:///state/cluster.db",
        "What it keeps jobs in: `sqlite:///PATH`, or `memory:`, which forgets them with the process.",
    )
    keys: PathText = key(
        "state/keys",
        "Folder of client.key, worker.key and admin.key; made on first start. The folder `run` beside it "
        "holds what runs.",
    )
    tls: Annotated[Tls, PlainValidator(_read_tls), PlainSerializer(_write_tls)] = key(
        "off",
        "`off`; `auto`: a private authority and certificates in the folder `tls` beside `keys`, made and renewed at `up`; "
        "or `{ca: FILE, cert: FILE, key: FILE}`. See [across hosts](../how-to/tls.md).",
    )
    hosts: Annotated[list[str], AfterValidator(_read_hosts)] = key(
        [], "What others dial to reach it, besides what `tls: auto` finds out: names and addresses for its certificate."
    )
    insecure: bool = key(
        False,  # noqa: FBT003 - a default, as the file would say it
        "`true`: listen where other machines get to, without TLS. Whoever can read or alter what goes over the network "
        "then reads every job and runs code on the workers; each start warns.",
    )
    web: Annotated[Any, NotYet("the web dashboard", None)] = key(
        None, "Where the dashboard and the HTTP interface listen."
    )

    @model_validator(mode="after")
    def _is_safe_where_it_listens(self) -> Master:
        if self.insecure and self.tls != "off":
            raise ValueError("insecure is for a master without tls; leave one of the two out")
        if self.tls == "off" and not self.insecure and not parse_address(self.bind).is_loopback:
            raise ValueError(
                f"{self.bind} can be reached from other machines, which needs tls; write tls: auto, "
                f"or bind tcp://127.0.0.1:7601 or unix://PATH"
            )
        return self


class Defaults(Section):
    """What jobs get that say nothing themselves."""

    retries: Count = key(0, "Re-runs after its own failure.")
    backoff: Delay = key("1s", "Wait before the first re-run; `0s`: none.")
    factor: Annotated[float, Field(ge=FACTORS[0], le=FACTORS[1])] = key(
        2, "Each further wait is so many times longer; 1 to 1000."
    )
    max_delay: Delay = key("5m", "The longest such wait.")
    jitter: Annotated[float, Field(ge=0, le=1)] = key(0.1, "Part of a wait that chance may take away; 0 to 1.")
    crash_limit: Count = key(5, "Re-runs after a crash or a lost worker.")


class Heartbeat(Section):
    """How the master knows that a worker lives."""

    interval: Duration = key("2s", "How often a worker says that it lives.")
    timeout: Duration = key("10s", "Silent for so long, it is lost and its jobs run elsewhere.")

    @model_validator(mode="after")
    def _beats_twice(self) -> Heartbeat:
        if self.timeout < 2 * self.interval:
            raise ValueError(
                "heartbeat.timeout must be at least twice heartbeat.interval, or one late beat loses a worker"
            )
        return self


class Drain(Section):
    """How processes stop."""

    timeout: Duration = key("60s", "How long running jobs may go on once a process shall stop.")


class Retention(Section):
    """How long ended jobs are kept (each job's `result_ttl` says it for one job)."""

    results: Duration = key("7d", "Outcomes of jobs that have no `result_ttl` of their own.")
    dead: Duration = key("30d", "Dead letters, at least; for longer if their `result_ttl` is.")
    output: Duration = key("7d", "What jobs printed, from the end of their run on. Their outcome stays.")
    max_size: Annotated[Size, AfterValidator(check_max_bytes)] = key(
        "10GB",
        "The store as a whole, at least 1MB. Beyond it the oldest ended jobs are dropped, dead letters last; live jobs, "
        "and what they need, never.",
    )


class Log(Section):
    """What the processes write down."""

    level: Literal["debug", "info", "warning", "error"] = key(
        "info", "From which level on: `debug`, `info`, `warning` or `error`."
    )
    format: Literal["text", "json"] = key("text", "`text`, or `json`: an object in each line.")
    dir: PathText = key("state/logs", "Folder of the logs, one file for each process.")
    max_size: Size = key("50MB", "A log that grows beyond this is moved to NAME.log.1, over the one before.")


# --- workers --------------------------------------------------------------------------------------------------------


class Threads(Section):
    """Slots that are threads of one process, for jobs that wait for the network. They can't be killed."""

    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)]


Slots = int | Literal["auto"] | Threads


def _read_slots(value: object) -> Slots:
    if isinstance(value, Threads) or value == "auto":
        return value
    if type(value) is int and 1 <= value <= MAX_SLOTS:
        return value
    if isinstance(value, dict):
        if "engine" in value:
            raise ValueError("slots on another engine are not there yet; write a number or auto")
        many = value.get("threads")
        if set(value) == {"threads"} and type(many) is int and 1 <= many <= MAX_THREADS:
            return Threads(threads=many)
    raise ValueError(
        f"{value!r} is no number of slots; write 1 to {MAX_SLOTS} processes, auto (one for each cpu), "
        f"or {{threads: N}} with N from 1 to {MAX_THREADS}"
    )


def _write_slots(slots: Slots) -> object:
    return {"threads": slots.threads} if isinstance(slots, Threads) else slots


def _read_limits(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no section of limits; write for instance {{nofile: 1024, fsize: 10GB}}")  # noqa: TRY004
    read: dict[str, int] = {}
    for name, said in value.items():
        if name in limits.SIZES and said != 0:
            read[name] = read_size(said)
        elif type(said) is int:
            read[str(name)] = said
        else:
            raise ValueError(f"limit {name}: {said!r} is no whole number")
    try:
        limits.read_limits(read)
    except Refused as error:
        raise ValueError(str(error)) from error
    return read


def _read_cgroup(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no section of cgroup limits; write for instance {{memory: 4GB, pids: 200}}")  # noqa: TRY004
    return read_group_limits(value)


def _read_host(value: str) -> str:
    if value != "localhost":
        raise ValueError(f"host {value!r}: workers on other machines are not there yet; write localhost")
    return value


def _read_environment(value: object) -> object:
    for name, text in value.items() if isinstance(value, dict) else ():
        if not isinstance(text, str):
            # No TypeError: pydantic collects ValueErrors only.
            raise ValueError(f'the value of {name} must be a text; write it in quotes: {name}: "{text}"')  # noqa: TRY004
        if "=" in str(name) or "\0" in f"{name}{text}" or not name:
            raise ValueError(f"{name!r} can't be an environment variable")
        if str(name).startswith("CLUSTER_"):
            raise ValueError(f"{name}: names that begin with CLUSTER_ are the kit's own and never reach a job")
    return value


class Worker(Section):
    """A host's slots: one supervisor process, and the processes or threads that run jobs."""

    name: Name = key("worker-1", "What it is called in listings and logs; the next one is `worker-2`, and so on.")
    host: Annotated[str, AfterValidator(_read_host)] = key("localhost", "Where it runs.")
    slots: Annotated[Slots, PlainValidator(_read_slots), PlainSerializer(_write_slots)] = key(
        "auto",
        "Jobs at a time: a number of processes, `auto` (one for each cpu), or `{threads: N}` for jobs that "
        "only wait; threads can't be killed.",
    )
    python: PathText | None = key(None, "The interpreter; by default the one that runs `up`.")
    resources: dict[Name, Annotated[int, Field(ge=1, le=MAX_COUNT)]] = key(
        {}, "What it offers besides slots, to jobs that ask for `resources`."
    )
    labels: dict[Name, str] = key({}, "What it is, to jobs that ask for `labels`.")
    env: Annotated[dict[str, str], BeforeValidator(_read_environment)] = key(
        {}, "Environment variables of its jobs, besides those of `up`."
    )
    max_jobs_per_child: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = key(
        None, "A slot's process is replaced by a fresh one after so many jobs."
    )
    user: Annotated[str, Field(pattern=NAME)] | None = key(
        None, "Who its jobs run as, if not whoever runs `up`: a name or number in quotes. Only root can do that."
    )
    limits: Annotated[dict[str, int], PlainValidator(_read_limits)] = key(
        {},
        "The system's limits on each of its processes (setrlimit): `as`, `core`, `cpu`, `fsize`, `nofile`, `nproc`; sizes may "
        "be written as texts. `core` is 0 unless it is here.",
    )
    cgroup: Annotated[dict[str, int | float], PlainValidator(_read_cgroup)] = key(
        {},
        "What all that its jobs start may take together (cgroup v2): `memory`, `pids` (processes and threads), `cpu` "
        "(processors, 1.5 for instance). Needs a delegated cgroup.",
    )
    port: Annotated[int, NotYet("ssh", 22)] = key(22, "Of the host's ssh server.")
    setup: Annotated[list[str], NotYet("setup", [])] = key([], "Commands to run first.")
    venv: Annotated[str | None, NotYet("venv", None)] = key(None, "Environment to make.")
    tunnel: Annotated[str, NotYet("a tunnel", "none")] = key("none", "How it reaches the master.")
    initializer: Annotated[str | None, NotYet("an initializer", None)] = key(
        None, "`module:function` to call in each fresh process."
    )


class Queue(Section):
    """One queue. Queues need not be named here: a job's `queue` makes them."""

    priority: Annotated[int, NotYet("a queue's priority", 0)] = key(0, "Higher goes first.")
    max_running: Annotated[int | None, NotYet("a queue's limit", None)] = key(None, "Jobs of this queue at a time.")


# --- the whole ------------------------------------------------------------------------------------------------------


class Config(Section):
    """A configuration file."""

    # Where it was read from, for messages and as the folder that processes work in. No key: equal files that lie in
    # two places are equal.
    _file: Path = PrivateAttr(default=Path("cluster.yaml"))

    name: Name = key("cluster", "What the cluster is called.")
    master: Master = key({}, "The process that owns the queue.")
    defaults: Defaults = key({}, "What jobs get that say nothing themselves.")
    heartbeat: Heartbeat = key({}, "How the master knows that a worker lives.")
    drain: Drain = key({}, "How processes stop.")
    retention: Retention = key({}, "How long ended jobs are kept.")
    log: Log = key({}, "What the processes write down.")
    workers: Annotated[list[Worker], Field(min_length=1, max_length=MAX_WORKERS)] = key(
        [{}], "Who runs the jobs; by default one worker with a slot for each cpu."
    )
    ship: Annotated[list[str], NotYet("shipping modules", [])] = key(
        [], "The user's own modules, copied to other machines."
    )
    queues: dict[Name, Queue] = key({"default": {}}, "Queues by name.")
    functions: Annotated[list[str], NotYet("calling functions over HTTP", [])] = key([], "What HTTP may call by name.")

    @property
    def file(self) -> Path:
        """The file that this was read from."""
        return self._file

    def from_file(self, file: Path) -> Config:
        """Say where it was read from."""
        self._file = file
        return self

    @field_validator("workers", mode="before")
    @classmethod
    def _name_workers(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return [
            {"name": f"worker-{number}", **worker} if isinstance(worker, dict) else worker
            for number, worker in enumerate(value, 1)
        ]

    @field_validator("workers", mode="after")
    @classmethod
    def _have_names_of_their_own(cls, workers: list[Worker]) -> list[Worker]:
        seen: set[str] = set()
        for worker in workers:
            if worker.name in RESERVED_NAMES or worker.name in seen:
                raise ValueError(f"the name {worker.name!r} is taken; give each worker its own")
            seen.add(worker.name)
        return workers
