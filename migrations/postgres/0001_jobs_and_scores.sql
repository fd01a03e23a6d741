CREATE TABLE jobs (
    job_id      text COLLATE "C" PRIMARY KEY,
    status      text NOT NULL CHECK (status IN ('ok', 'rejected')),
    model       text,
    version     text,
    namespace   text,
    hits        integer NOT NULL DEFAULT 0,
    misses      integer NOT NULL DEFAULT 0,
    results     jsonb,
    error       jsonb,
    elapsed_ms  double precision,
    body_sha256 bytea NOT NULL,
    finished_at timestamptz NOT NULL
);
COMMENT ON TABLE jobs IS 'One row a job: its results, or why it was rejected.';
COMMENT ON COLUMN jobs.job_id IS 'The job''s id. A rejection whose id belongs to another job''s row stands under id~hash; a body without an id under body-hash.';
COMMENT ON COLUMN jobs.error IS 'code, field and message of a rejection.';
COMMENT ON COLUMN jobs.body_sha256 IS 'SHA-256 of the body: tells a repeat from a conflict.';
CREATE INDEX jobs_finished_at ON jobs USING brin (finished_at);

CREATE TABLE scores (
    input_sha256 bytea NOT NULL,
    model        text COLLATE "C" NOT NULL,
    version      text COLLATE "C" NOT NULL,
    namespace    text NOT NULL,
    key          text,
    label        text,
    score        real,
    outputs      bytea,
    text         text,
    text_pair    text,
    features     bytea,
    scored_at    timestamptz NOT NULL,
    PRIMARY KEY (input_sha256, model, version)
);
COMMENT ON TABLE scores IS 'What a model version said of an input the first time it was scored.';
COMMENT ON COLUMN scores.input_sha256 IS 'SHA-256 of the normalised input.';
COMMENT ON COLUMN scores.outputs IS 'The model''s whole output row where it has more than one value: 32-bit floats, little-endian.';
COMMENT ON COLUMN scores.features IS 'The input''s features: 32-bit floats, little-endian.';
CREATE INDEX scores_scored_at ON scores USING brin (scored_at);

CREATE TABLE suspects (
    body_sha256 bytea PRIMARY KEY,
    runs        integer NOT NULL,
    seen_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE suspects IS 'Jobs that run alone because workers died while they were in hand.';
