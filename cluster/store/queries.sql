-- What the store reads, by name. `-- name:` begins a statement, the lines after it say what for.

-- name: make_stories
-- Each job with the latest of its requeues, that run's outcome, and that run's last failed attempt. A TEMP view of the
-- reading connection; unused columns cost nothing, and every lookup goes by an index.
CREATE TEMP VIEW stories AS
SELECT
    j.seq, j.id, j.key, j.function, j.body, j.args_digest, j.args, j.mac,
    r.run AS new_run, r.at AS requeued_at, r.mac AS requeue_mac,
    o.run AS outcome_run, o.state, o.keep_until, o.body AS outcome_body, o.payload_digest, o.payload,
    o.mac AS outcome_mac,
    (SELECT count(*) FROM attempts AS c WHERE c.seq = j.seq AND c.run = coalesce(r.run, 1)) AS failed_attempts,
    a.fence, a.body AS attempt_body, a.mac AS attempt_mac
FROM jobs AS j
LEFT JOIN requeues AS r ON r.seq = j.seq AND r.run = (SELECT max(run) FROM requeues WHERE seq = j.seq)
LEFT JOIN outcomes AS o ON o.seq = j.seq AND o.run = coalesce(r.run, 1)
LEFT JOIN attempts AS a ON a.seq = j.seq AND a.run = coalesce(r.run, 1)
    AND a.fence = (SELECT max(fence) FROM attempts WHERE seq = j.seq AND run = coalesce(r.run, 1));

-- name: live_jobs
-- The next jobs without an outcome of their latest run, and some of those whose last column says that they have a past:
-- each of these is one only if `live_story` finds it.
SELECT
    seq, id, key, function, body, args_digest, args, mac,
    EXISTS (SELECT 1 FROM attempts WHERE seq = j.seq) OR EXISTS (SELECT 1 FROM requeues WHERE seq = j.seq)
FROM jobs AS j
WHERE seq > :after AND (
    NOT EXISTS (SELECT 1 FROM outcomes WHERE seq = j.seq)
    OR EXISTS (
        SELECT 1 FROM requeues AS r WHERE r.seq = j.seq
        AND NOT EXISTS (SELECT 1 FROM outcomes WHERE seq = r.seq AND run = r.run)
    )
)
ORDER BY seq LIMIT :limit;

-- name: is_past_ahead
-- Whether any job behind a number has a past. Most that wait came after all that ever ran.
SELECT EXISTS (SELECT 1 FROM outcomes WHERE seq > :after) OR EXISTS (SELECT 1 FROM attempts WHERE seq > :after)
    OR EXISTS (SELECT 1 FROM requeues WHERE seq > :after);

-- name: new_jobs
-- The same as `live_jobs` where no past is ahead.
SELECT seq, id, key, function, body, args_digest, args, mac, 0 FROM jobs WHERE seq > :after ORDER BY seq LIMIT :limit;

-- name: live_story
-- A job by its number, unless its latest run has an outcome.
SELECT * FROM stories WHERE seq = :seq AND outcome_run IS NULL;

-- name: find
-- A job by its id.
SELECT * FROM stories WHERE id = :id;

-- name: find_all
-- Jobs by their ids, in the order in which these are named (SQLite never turns a CROSS JOIN round). `:ids` stands for a
-- list of rows, as long as the caller likes.
SELECT stories.* FROM (VALUES :ids) AS asked CROSS JOIN stories ON stories.id = asked.column1;

-- name: find_key
-- A job by its key.
SELECT * FROM stories WHERE key = :key;

-- name: page
-- The next jobs for a listing: payloads that are sealed by their digest stay on the disk.
SELECT
    seq, id, key, function, body, args_digest, CASE WHEN args_digest IS NULL THEN args END, mac,
    new_run, requeued_at, requeue_mac,
    outcome_run, state, keep_until, outcome_body, payload_digest, CASE WHEN payload_digest IS NULL THEN payload END,
    outcome_mac, failed_attempts, fence, attempt_body, attempt_mac
FROM stories WHERE seq > :after AND (:state IS NULL OR state = :state) ORDER BY seq LIMIT :limit;

-- name: seq_of
-- The number of a job.
SELECT seq FROM jobs WHERE id = :id;

-- name: outcomes_of
-- Every run's outcome of a job, without long payloads.
SELECT run, state, keep_until, body, payload_digest, CASE WHEN payload_digest IS NULL THEN payload END, mac
FROM outcomes WHERE seq = :seq ORDER BY run;

-- name: result_of
-- The outcome of the latest run that completed.
SELECT run, state, keep_until, body, payload_digest, payload, mac
FROM outcomes WHERE seq = :seq AND state = :state ORDER BY run DESC LIMIT 1;

-- name: attempts_of
-- Every failed attempt of a job but the last ones of its runs.
SELECT run, fence, body, mac FROM attempts WHERE seq = :seq ORDER BY run, fence;

-- name: outputs_of
-- What a job's attempts printed.
SELECT run, fence, output, mac FROM outputs WHERE seq = :seq ORDER BY run, fence;

-- name: function
-- A pickled task.
SELECT digest, body, code_digest, code, mac FROM functions WHERE digest = :digest;

-- name: answer
-- What a request was answered.
SELECT id, keep_until, answer, mac FROM requests WHERE id = :id;

-- name: are_answers_over
-- A row, if some answers may go; there are few at any time.
SELECT 1 FROM requests WHERE keep_until < :wall LIMIT 1;

-- name: journal
-- What an earlier opening committed and did not file.
SELECT entry, body, mac FROM journal ORDER BY entry;

-- name: last_entry
-- The last of those.
SELECT coalesce(max(entry), 0) FROM journal;

-- name: meta
-- What an opening must know.
SELECT name, body, mac FROM meta;

-- name: queues
-- Paused queues.
SELECT name, mac FROM queues ORDER BY name;

-- name: leases
-- Batches of leases, oldest first.
SELECT first_fence, worker, body, mac FROM leases ORDER BY first_fence;

-- name: is_lease_over
-- A row, if this lease's attempt has ended, its run has, or its job is gone.
SELECT 1 WHERE EXISTS (SELECT 1 FROM attempts WHERE seq = :seq AND run = :run AND fence = :fence)
    OR EXISTS (SELECT 1 FROM outcomes WHERE seq = :seq AND run = :run)
    OR NOT EXISTS (SELECT 1 FROM jobs WHERE seq = :seq);

-- name: prune_window_end
-- The number up to which one call of prune looks, so that no call reads the whole table.
SELECT seq FROM outcomes WHERE seq > :after ORDER BY seq LIMIT 1 OFFSET :rows;

-- name: overdue
-- Ended jobs in a window whose retention is over.
SELECT o.seq, j.id FROM outcomes AS o JOIN jobs AS j ON j.seq = o.seq
WHERE o.seq > :after AND o.seq <= :end AND o.keep_until < :wall
    AND o.run = coalesce((SELECT max(run) FROM requeues WHERE seq = o.seq), 1)
ORDER BY o.seq LIMIT :limit;

-- name: output_window_end
-- The same for outputs.
SELECT seq FROM outputs WHERE seq > :after ORDER BY seq LIMIT 1 OFFSET :rows;

-- name: printed
-- Runs in a window that printed something and have ended, with what their outcomes say. Reads no output.
SELECT p.seq, p.run, o.body FROM (
    SELECT DISTINCT seq, run FROM outputs WHERE seq > :after AND seq <= :end
) AS p JOIN outcomes AS o ON o.seq = p.seq AND o.run = p.run
ORDER BY p.seq, p.run;

-- name: oldest
-- Ended jobs in a window, dead letters or the others, with the bytes that they hold. The length of a blob stands before
-- it, so that none is read.
SELECT o.seq, j.id, length(j.body) + length(j.args) + length(o.body) + length(o.payload)
    + coalesce((SELECT sum(length(output)) FROM outputs WHERE seq = o.seq), 0)
FROM outcomes AS o JOIN jobs AS j ON j.seq = o.seq
WHERE o.seq > :after AND o.seq <= :end AND (o.state = :dead) = :is_dead
    AND o.run = coalesce((SELECT max(run) FROM requeues WHERE seq = o.seq), 1)
ORDER BY o.seq LIMIT :limit;

-- name: used_bytes
-- What the tables take of the file.
SELECT (p.page_count - f.freelist_count) * s.page_size
FROM pragma_page_count AS p, pragma_freelist_count AS f, pragma_page_size AS s;

-- name: spread
-- How many jobs there are at most, without counting them.
SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM jobs;

-- name: unused_functions
-- Tasks that no job refers to; reads all of `jobs`.
SELECT digest FROM functions WHERE digest NOT IN (SELECT function FROM jobs);
