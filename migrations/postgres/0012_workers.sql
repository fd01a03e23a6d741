CREATE TABLE workers (
    name       text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz,
    version    text NOT NULL,
    figures    jsonb NOT NULL,
    PRIMARY KEY (name, started_at)
);
COMMENT ON TABLE workers IS 'Every worker, as it says of itself every few seconds. One that has said nothing for an hour is forgotten.';
COMMENT ON COLUMN workers.stopped_at IS 'When it was asked to stop and had done so; empty of one that runs, or is gone without a word.';
COMMENT ON COLUMN workers.figures IS 'How it is: see WorkerFigures in src/store/fleet.rs.';
