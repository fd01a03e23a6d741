ALTER TABLE warm_runs
    ADD COLUMN computes        bigint NOT NULL DEFAULT 0,
    ADD COLUMN left_over       bigint NOT NULL DEFAULT 0,
    ADD COLUMN budget_inputs   bigint,
    ADD COLUMN budget_seconds  double precision,
    ADD COLUMN posted_pieces   bigint NOT NULL DEFAULT 0,
    ADD COLUMN posted_computes bigint NOT NULL DEFAULT 0,
    ADD COLUMN posted_seconds  double precision NOT NULL DEFAULT 0,
    ADD COLUMN spent_seconds   double precision NOT NULL DEFAULT 0,
    ADD COLUMN kept_bytes      bigint NOT NULL DEFAULT 0,
    ADD COLUMN evicted_keys    bigint;
COMMENT ON COLUMN warm_runs.computes IS 'Those of the planned inputs that the model was to compute: the others'' scores were known.';
COMMENT ON COLUMN warm_runs.left_over IS 'Inputs that a budget or the memory left no room for, when it was planned and while it ran.';
COMMENT ON COLUMN warm_runs.budget_seconds IS 'Model time that its jobs may take; budget_inputs: inputs that the model may compute for them. Empty: no bound.';
COMMENT ON COLUMN warm_runs.posted_seconds IS 'Model time that was expected of the jobs posted so far; posted_pieces: how many they are; posted_computes: inputs that they were to compute.';
COMMENT ON COLUMN warm_runs.spent_seconds IS 'Model time that its jobs took.';
COMMENT ON COLUMN warm_runs.kept_bytes IS 'About what its entries fill of Redis''s memory, those included that it left because they were fresh.';
COMMENT ON COLUMN warm_runs.evicted_keys IS 'What Redis had evicted when it was planned.';

ALTER TABLE warm_posts
    ADD COLUMN computes      integer NOT NULL DEFAULT 0,
    ADD COLUMN model_seconds double precision NOT NULL DEFAULT 0;
COMMENT ON COLUMN warm_posts.computes IS 'Inputs that the model is to compute; model_seconds: how long that is expected to take.';

CREATE TABLE warm_spent (
    run_id        bigint NOT NULL,
    piece         integer NOT NULL,
    model_seconds double precision NOT NULL,
    PRIMARY KEY (run_id, piece)
);
COMMENT ON TABLE warm_spent IS 'Model time that the jobs of open runs took, written with their rows.';

CREATE TABLE model_costs (
    model            text COLLATE "C" NOT NULL,
    version          text COLLATE "C" NOT NULL,
    machine          text COLLATE "C" NOT NULL,
    length_class     smallint NOT NULL,
    seconds_per_unit double precision NOT NULL,
    is_measured      boolean NOT NULL,
    changed_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, version, machine, length_class)
);
COMMENT ON TABLE model_costs IS 'What inputs cost, as workers on one kind of machine measured it: a worker that is new starts from it.';
COMMENT ON COLUMN model_costs.length_class IS 'The binary logarithm of an input''s units, rounded down. A unit is a row of features, or a byte of text.';
COMMENT ON COLUMN model_costs.is_measured IS 'Whether calls have measured it, or golden inputs when the model was loaded.';
