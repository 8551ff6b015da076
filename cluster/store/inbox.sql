-- The writer's inbox: one INSERT of many rows into this view files many records of the journal in all tables.
--
-- Why. Python's sqlite3 gives up the GIL around each step of a statement, and in a busy process each time it wants it
-- back may cost 5 ms. One statement means one such wait, and is atomic by itself. Measured with one busy
-- thread, groups of 1,000 jobs, an admission and an outcome each: 660 rows/s with executemany, over 100,000 this way.
--
-- These are TEMP objects of the writing connection, made at each opening: nothing in the file decides what a write
-- does. Rows are worked off in order. A row whose kind is NULL is padding: statements exist for a few sizes only.

CREATE TEMP VIEW inbox (
    kind, seq, run, name, key, number, until, digest, body, payload_digest, payload, mac
) AS SELECT NULL, 0, 0, '', NULL, 0, 0.0, x'', x'', NULL, x'', x'';

-- name: id · digest: the function's · payload: arguments
-- A job whose id or key another one has is left out: it was submitted twice, and the first is the one that counts. Were
-- it an error, a journal that holds it could never be filed.
CREATE TEMP TRIGGER take_job INSTEAD OF INSERT ON inbox WHEN new.kind = 'job' BEGIN
    INSERT INTO jobs (seq, id, key, function, body, args_digest, args, mac)
    SELECT new.seq, new.name, new.key, new.digest, new.body, new.payload_digest, new.payload, new.mac
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = new.name AND seq <> new.seq)
    AND (new.key IS NULL OR NOT EXISTS (SELECT 1 FROM jobs WHERE key = new.key AND seq <> new.seq))
    ON CONFLICT (seq) DO UPDATE SET
        id = excluded.id, key = excluded.key, function = excluded.function, body = excluded.body,
        args_digest = excluded.args_digest, args = excluded.args, mac = excluded.mac;
END;

-- A job that was requeued with another budget.
CREATE TEMP TRIGGER take_budget INSTEAD OF INSERT ON inbox WHEN new.kind = 'budget' BEGIN
    UPDATE jobs SET body = new.body, mac = new.mac WHERE seq = new.seq AND id = new.name;
END;

-- number: state · until: keep_until
CREATE TEMP TRIGGER take_outcome INSTEAD OF INSERT ON inbox WHEN new.kind = 'outcome' BEGIN
    INSERT OR REPLACE INTO outcomes (seq, run, state, keep_until, body, payload_digest, payload, mac)
    SELECT new.seq, new.run, new.number, new.until, new.body, new.payload_digest, new.payload, new.mac
    WHERE EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
END;

-- number: fence
CREATE TEMP TRIGGER take_output INSTEAD OF INSERT ON inbox WHEN new.kind = 'output' BEGIN
    INSERT OR REPLACE INTO outputs (seq, run, fence, output, mac)
    SELECT new.seq, new.run, new.number, new.body, new.mac
    WHERE EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
END;

CREATE TEMP TRIGGER drop_output INSTEAD OF INSERT ON inbox WHEN new.kind = 'output over' BEGIN
    DELETE FROM outputs WHERE seq = new.seq AND run = new.run;
END;

-- number: fence
CREATE TEMP TRIGGER take_attempt INSTEAD OF INSERT ON inbox WHEN new.kind = 'attempt' BEGIN
    INSERT OR REPLACE INTO attempts (seq, run, fence, body, mac)
    SELECT new.seq, new.run, new.number, new.body, new.mac
    WHERE EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
END;

-- until: when it was requeued
CREATE TEMP TRIGGER take_requeue INSTEAD OF INSERT ON inbox WHEN new.kind = 'requeue' BEGIN
    INSERT OR REPLACE INTO requeues (seq, run, at, mac)
    SELECT new.seq, new.run, new.until, new.mac
    WHERE EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
END;

-- number: first fence · name: worker
CREATE TEMP TRIGGER take_lease INSTEAD OF INSERT ON inbox WHEN new.kind = 'lease' BEGIN
    INSERT OR REPLACE INTO leases (first_fence, worker, body, mac) VALUES (new.number, new.name, new.body, new.mac);
END;

CREATE TEMP TRIGGER drop_lease INSTEAD OF INSERT ON inbox WHEN new.kind = 'lease over' BEGIN
    DELETE FROM leases WHERE first_fence = new.number;
END;

CREATE TEMP TRIGGER take_function INSTEAD OF INSERT ON inbox WHEN new.kind = 'function' BEGIN
    INSERT OR REPLACE INTO functions (digest, body, code_digest, code, mac)
    VALUES (new.digest, new.body, new.payload_digest, new.payload, new.mac);
END;

CREATE TEMP TRIGGER drop_function INSTEAD OF INSERT ON inbox WHEN new.kind = 'function over' BEGIN
    DELETE FROM functions WHERE digest = new.digest;
END;

CREATE TEMP TRIGGER take_pause INSTEAD OF INSERT ON inbox WHEN new.kind = 'pause' BEGIN
    INSERT OR REPLACE INTO queues (name, mac) VALUES (new.name, new.mac);
END;

CREATE TEMP TRIGGER drop_pause INSTEAD OF INSERT ON inbox WHEN new.kind = 'pause over' BEGIN
    DELETE FROM queues WHERE name = new.name;
END;

CREATE TEMP TRIGGER take_meta INSTEAD OF INSERT ON inbox WHEN new.kind = 'meta' BEGIN
    INSERT OR REPLACE INTO meta (name, body, mac) VALUES (new.name, new.body, new.mac);
END;

-- number: the last entry that is filed
CREATE TEMP TRIGGER drop_journal INSTEAD OF INSERT ON inbox WHEN new.kind = 'journal over' BEGIN
    DELETE FROM journal WHERE entry <= new.number;
END;

-- name: request · until: keep_until · body: answer
CREATE TEMP TRIGGER take_request INSTEAD OF INSERT ON inbox WHEN new.kind = 'request' BEGIN
    INSERT OR REPLACE INTO requests (id, keep_until, answer, mac) VALUES (new.name, new.until, new.body, new.mac);
END;

CREATE TEMP TRIGGER drop_requests INSTEAD OF INSERT ON inbox WHEN new.kind = 'requests over' BEGIN
    DELETE FROM requests WHERE keep_until < new.until;
END;

-- An undone admission goes whatever else is there; a job whose retention is over only if it still has its outcome,
-- for it may have been requeued since someone looked.
CREATE TEMP TRIGGER drop_job INSTEAD OF INSERT ON inbox WHEN new.kind IN ('undo', 'forget') BEGIN
    DELETE FROM jobs WHERE seq = new.seq AND (new.kind = 'undo' OR EXISTS (
        SELECT 1 FROM outcomes WHERE seq = new.seq
        AND run = coalesce((SELECT max(run) FROM requeues WHERE seq = new.seq), 1)
    ));
    DELETE FROM outcomes WHERE seq = new.seq AND NOT EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
    DELETE FROM attempts WHERE seq = new.seq AND NOT EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
    DELETE FROM outputs WHERE seq = new.seq AND NOT EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
    DELETE FROM requeues WHERE seq = new.seq AND NOT EXISTS (SELECT 1 FROM jobs WHERE seq = new.seq);
END;
