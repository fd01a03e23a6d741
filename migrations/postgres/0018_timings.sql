CREATE TABLE timings (
    slot       timestamptz NOT NULL,
    worker     text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    parts      jsonb NOT NULL,
    PRIMARY KEY (slot, worker, started_at)
);
COMMENT ON TABLE timings IS 'How long jobs, stages, models and servers took on each worker, in slots of five minutes. Older ones than a day are deleted.';
COMMENT ON COLUMN timings.worker IS 'The worker, by its name and when it started, as in workers.';
COMMENT ON COLUMN timings.parts IS 'A histogram for each part: see Timings in src/telemetry/timings.rs.';
