-- The tables of a cluster store, version 2.
--
-- No row holds a job's state: a job lives while its latest run has no outcome, and its latest run is 1 unless
-- `requeues` says more. Every row carries a seal (`mac`, see seal.py) over its other columns and its table's name.
-- Bodies are msgpack (rows.py). A long payload is sealed by its digest, so that a listing checks a row without it.
-- A change here needs a new `SCHEMA_VERSION` in files.py, and a migration (migrations.py).

-- What an opening must know and can't derive: the epoch, and the highest numbers ever given out.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    mac BLOB NOT NULL
);

-- Commit groups that are not filed in the tables below yet; each a msgpack body of its records (journal.py).
CREATE TABLE journal (
    entry INTEGER PRIMARY KEY,
    body BLOB NOT NULL,
    mac BLOB NOT NULL
);

-- Pickled tasks, once per content.
CREATE TABLE functions (
    digest BLOB PRIMARY KEY,
    body BLOB NOT NULL,
    code_digest BLOB,
    code BLOB NOT NULL,
    mac BLOB NOT NULL
);

-- Admissions. `seq` grows, so this table is only ever appended to; ids that grow too keep their index cheap.
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    key TEXT,
    function BLOB NOT NULL,
    body BLOB NOT NULL,
    args_digest BLOB,
    args BLOB NOT NULL,
    mac BLOB NOT NULL
);
CREATE UNIQUE INDEX jobs_by_id ON jobs (id);
CREATE UNIQUE INDEX jobs_by_key ON jobs (key) WHERE key IS NOT NULL;

-- How each run ended.
CREATE TABLE outcomes (
    seq INTEGER NOT NULL,
    run INTEGER NOT NULL,
    state INTEGER NOT NULL,
    keep_until REAL NOT NULL,
    body BLOB NOT NULL,
    payload_digest BLOB,
    payload BLOB NOT NULL,
    mac BLOB NOT NULL,
    PRIMARY KEY (seq, run)
);

-- Attempts that ended badly and were followed, or will be, by another one.
CREATE TABLE attempts (
    seq INTEGER NOT NULL,
    run INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    body BLOB NOT NULL,
    mac BLOB NOT NULL,
    PRIMARY KEY (seq, run, fence)
);

-- What attempts printed; those that printed nothing have no row.
CREATE TABLE outputs (
    seq INTEGER NOT NULL,
    run INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    output BLOB NOT NULL,
    mac BLOB NOT NULL,
    PRIMARY KEY (seq, run, fence)
);

-- New runs of ended jobs.
CREATE TABLE requeues (
    seq INTEGER NOT NULL,
    run INTEGER NOT NULL,
    at REAL NOT NULL,
    mac BLOB NOT NULL,
    PRIMARY KEY (seq, run)
);

-- Batches of leases of which something is, or may be, outstanding.
CREATE TABLE leases (
    first_fence INTEGER PRIMARY KEY,
    worker TEXT NOT NULL,
    body BLOB NOT NULL,
    mac BLOB NOT NULL
);

-- Requests that must not be carried out twice, with what they were answered.
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    keep_until REAL NOT NULL,
    answer BLOB NOT NULL,
    mac BLOB NOT NULL
);

-- Paused queues.
CREATE TABLE queues (
    name TEXT PRIMARY KEY,
    mac BLOB NOT NULL
);
