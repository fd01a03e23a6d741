CREATE TABLE warm_ahead (
    schedule      text COLLATE "C" NOT NULL,
    after_run     bigint NOT NULL,
    inputs        bigint NOT NULL,
    model_seconds double precision NOT NULL,
    renewals      bigint NOT NULL,
    PRIMARY KEY (schedule, after_run)
);
COMMENT ON TABLE warm_ahead IS 'What was spent since a schedule''s latest run on what probably is asked for next: the run after it has so much less to spend.';
COMMENT ON COLUMN warm_ahead.after_run IS 'The schedule''s latest run then; 0: it had none.';
COMMENT ON COLUMN warm_ahead.inputs IS 'Inputs that were to be computed; model_seconds: what they were expected to take; renewals: inputs whose known scores were renewed.';
