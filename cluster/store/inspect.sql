-- What a check of a store reads, by name: every row, so that each seal is compared once. With queries.sql's `stories`.

-- name: jobs
-- Every job with its latest requeue, its current outcome and that run's last failed attempt.
SELECT * FROM stories ORDER BY seq;

-- name: outcomes
-- Every run's outcome, with whose it is.
SELECT o.seq, j.id, o.run, o.state, o.keep_until, o.body, o.payload_digest, o.payload, o.mac
FROM outcomes AS o JOIN jobs AS j ON j.seq = o.seq ORDER BY o.seq, o.run;

-- name: attempts
-- Every failed attempt, with whose it is.
SELECT a.seq, j.id, a.run, a.fence, a.body, a.mac
FROM attempts AS a JOIN jobs AS j ON j.seq = a.seq ORDER BY a.seq, a.run, a.fence;

-- name: outputs
-- All output, with whose it is.
SELECT o.seq, j.id, o.run, o.fence, o.output, o.mac
FROM outputs AS o JOIN jobs AS j ON j.seq = o.seq ORDER BY o.seq, o.run, o.fence;

-- name: requeues
-- Every requeue, with whose it is.
SELECT r.seq, j.id, r.run, r.at, r.mac FROM requeues AS r JOIN jobs AS j ON j.seq = r.seq ORDER BY r.seq, r.run;

-- name: functions
-- Every pickled task.
SELECT digest, body, code_digest, code, mac FROM functions ORDER BY digest;

-- name: requests
-- Every answer.
SELECT id, keep_until, answer, mac FROM requests ORDER BY id;

-- name: strays
-- Rows that belong to no job, by table.
SELECT 'outcomes', count(*) FROM outcomes WHERE seq NOT IN (SELECT seq FROM jobs)
UNION ALL SELECT 'attempts', count(*) FROM attempts WHERE seq NOT IN (SELECT seq FROM jobs)
UNION ALL SELECT 'outputs', count(*) FROM outputs WHERE seq NOT IN (SELECT seq FROM jobs)
UNION ALL SELECT 'requeues', count(*) FROM requeues WHERE seq NOT IN (SELECT seq FROM jobs);

-- name: homeless
-- Live jobs whose task is not there: they can't be run.
SELECT function, id FROM stories WHERE outcome_run IS NULL AND function NOT IN (SELECT digest FROM functions) ORDER BY seq;

-- name: counts
-- How much there is.
SELECT (SELECT count(*) FROM jobs) AS jobs,
    (SELECT count(*) FROM stories WHERE outcome_run IS NULL) AS live,
    (SELECT count(*) FROM functions) AS functions,
    (SELECT count(*) FROM outcomes) AS outcomes,
    (SELECT count(*) FROM attempts) AS attempts,
    (SELECT count(*) FROM leases) AS leases,
    (SELECT count(*) FROM journal) AS journal;

-- name: highest
-- The highest job number.
SELECT coalesce(max(seq), 0) FROM jobs;
