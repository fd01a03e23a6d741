ALTER TABLE warm_posts
    ADD COLUMN sent         boolean NOT NULL DEFAULT false,
    ADD COLUMN full_seconds double precision NOT NULL DEFAULT 0;
COMMENT ON COLUMN warm_posts.sent IS 'Whether it was handed to the broker, as far as anybody knows: whoever takes the run over posts it once more.';
COMMENT ON COLUMN warm_posts.full_seconds IS 'How long it is expected to take if all of its inputs have to be computed.';

ALTER TABLE warm_runs
    ADD COLUMN kept_until   timestamptz,
    ADD COLUMN wanted_bytes bigint;
COMMENT ON COLUMN warm_runs.kept_until IS 'When what it keeps has expired, however late its jobs are done. Empty: nobody knows.';
COMMENT ON COLUMN warm_runs.wanted_bytes IS 'What its entries would fill of Redis''s memory if there were room for all of them.';
