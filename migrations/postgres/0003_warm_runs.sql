CREATE TABLE warm_runs (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schedule      text COLLATE "C" NOT NULL,
    due_at        timestamptz NOT NULL,
    state         text NOT NULL CHECK (state IN ('queued', 'planning', 'posting', 'waiting', 'done', 'failed', 'skipped')),
    worker        text,
    token         bigint NOT NULL DEFAULT 1,
    lease_until   timestamptz,
    limit_seconds double precision NOT NULL,
    ends_at       timestamptz NOT NULL,
    planned       bigint NOT NULL DEFAULT 0,
    skipped       bigint NOT NULL DEFAULT 0,
    bad           bigint NOT NULL DEFAULT 0,
    pieces        bigint NOT NULL DEFAULT 0,
    posted        bigint NOT NULL DEFAULT 0,
    done          bigint NOT NULL DEFAULT 0,
    failed        bigint NOT NULL DEFAULT 0,
    hits          bigint NOT NULL DEFAULT 0,
    misses        bigint NOT NULL DEFAULT 0,
    model_seconds double precision NOT NULL DEFAULT 0,
    saved_seconds double precision,
    message       text,
    started_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    UNIQUE (schedule, due_at)
);
COMMENT ON TABLE warm_runs IS 'One row a due run of a schedule; the unique constraint is what makes it run once, whatever the number of workers.';
COMMENT ON COLUMN warm_runs.token IS 'Goes up whenever another worker takes the run over: a write under an older token changes nothing.';
COMMENT ON COLUMN warm_runs.lease_until IS 'When, by the database''s clock, another worker may take the run over.';
COMMENT ON COLUMN warm_runs.planned IS 'Inputs to post; skipped: inputs that were fresh or over the budget; bad: rows that were no input; pieces: jobs; posted, done, failed: inputs.';
COMMENT ON COLUMN warm_runs.saved_seconds IS 'Waiting that the run is expected to save readers, where requests a second are known.';
CREATE INDEX warm_runs_open ON warm_runs (schedule) WHERE state IN ('queued', 'planning', 'posting', 'waiting');

CREATE TABLE warm_posts (
    run_id bigint NOT NULL REFERENCES warm_runs (id) ON DELETE CASCADE,
    piece  integer NOT NULL,
    inputs integer NOT NULL,
    body   bytea NOT NULL,
    PRIMARY KEY (run_id, piece)
);
COMMENT ON TABLE warm_posts IS 'Jobs of runs that aren''t posted yet: a run cut short goes on from here.';
