CREATE TABLE active_models (
    name       text COLLATE "C" PRIMARY KEY,
    version    text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE active_models IS 'The version that a bare model name means to every worker; a name without a row means what the worker''s settings say.';
