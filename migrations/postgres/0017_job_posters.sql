-- Which API keys posted a job, so that these may read how it ended. A job that came over AMQP without a key's name has none.
CREATE TABLE job_posters (
    posted_by   text COLLATE "C" NOT NULL,
    job_id      text COLLATE "C" NOT NULL,
    body_sha256 bytea NOT NULL,
    posted_at   timestamptz NOT NULL,
    PRIMARY KEY (posted_by, job_id, body_sha256)
);
COMMENT ON TABLE job_posters IS 'Which API keys posted a job with that body: of a job with another body they know nothing.';
COMMENT ON COLUMN job_posters.posted_by IS 'The key''s name in the settings.';
COMMENT ON COLUMN job_posters.posted_at IS 'When it ended, the last time that this key had posted it.';
CREATE INDEX job_posters_by_time ON job_posters (posted_by, posted_at, job_id);
