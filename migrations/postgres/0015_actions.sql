CREATE TABLE actions (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    by_name text NOT NULL,
    kind    text NOT NULL,
    detail  text NOT NULL
);
COMMENT ON TABLE actions IS 'What operators did, and who: the latest 10,000.';
COMMENT ON COLUMN actions.by_name IS 'The name of an API key in the settings, `local` where a worker has none, or `command` and the user who ran it.';
