CREATE TABLE model_splits (
    name       text COLLATE "C" PRIMARY KEY,
    version    text NOT NULL,
    millionths integer NOT NULL CHECK (millionths BETWEEN 0 AND 1000000),
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE model_splits IS 'The version that a share of a model''s inputs goes to beside the active one, for every worker. Workers of releases before this table leave all inputs to the active one.';
