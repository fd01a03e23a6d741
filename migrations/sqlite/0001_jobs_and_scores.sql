CREATE TABLE jobs (
    job_id      text PRIMARY KEY,
    status      text NOT NULL CHECK (status IN ('ok', 'rejected')),
    model       text,
    version     text,
    namespace   text,
    hits        integer NOT NULL DEFAULT 0,
    misses      integer NOT NULL DEFAULT 0,
    results     text,
    error       text,
    elapsed_ms  real,
    body_sha256 text NOT NULL,
    finished_at text NOT NULL
);

CREATE TABLE scores (
    input_sha256 blob NOT NULL,
    model        text NOT NULL,
    version      text NOT NULL,
    namespace    text NOT NULL,
    key          text,
    label        text,
    score        real,
    outputs      blob NOT NULL,
    text         text,
    text_pair    text,
    features     blob,
    scored_at    text NOT NULL,
    PRIMARY KEY (input_sha256, model, version)
);
