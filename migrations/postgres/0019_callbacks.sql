-- Jobs' ends that are still to be posted to whoever asked for that by `callback_url`: written with the job's row, gone once delivered or given up.
CREATE TABLE callbacks (
    job_id      text COLLATE "C" PRIMARY KEY,
    body_sha256 bytea NOT NULL,
    url         text NOT NULL,
    host        text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    due_at      timestamptz NOT NULL DEFAULT now(),
    tries       integer NOT NULL DEFAULT 0,
    claim       bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE callbacks IS 'Jobs whose ends are still to be posted. What is posted is the job''s row.';
COMMENT ON COLUMN callbacks.body_sha256 IS 'Of the body that asked for it: where the id is another body''s by now, nothing of it is posted.';
COMMENT ON COLUMN callbacks.host IS 'The host as the settings list it.';
COMMENT ON COLUMN callbacks.due_at IS 'When it is tried next: while a worker has it, when that one''s time for it is over.';
COMMENT ON COLUMN callbacks.tries IS 'Tries that have begun.';
COMMENT ON COLUMN callbacks.claim IS 'Rises with every try and every new end of the job: what an earlier holder says changes nothing.';
CREATE INDEX callbacks_due ON callbacks (host, due_at);
CREATE INDEX callbacks_by_time ON callbacks (created_at);
