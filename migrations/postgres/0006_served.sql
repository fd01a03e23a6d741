-- What readers were served under a name, one row whenever that changed.
CREATE TABLE served (
    namespace     text COLLATE "C" NOT NULL,
    key           text COLLATE "C" NOT NULL,
    id            bigint GENERATED ALWAYS AS IDENTITY,
    served_from   timestamptz NOT NULL,
    job_id        text COLLATE "C" NOT NULL,
    model         text COLLATE "C" NOT NULL,
    version       text COLLATE "C" NOT NULL,
    input_sha256  bytea,
    label         text,
    score         real,
    items         jsonb,
    inputs_sha256 bytea,
    is_removed    boolean NOT NULL DEFAULT false,
    order_kind    "char" NOT NULL,
    order_value   bigint NOT NULL,
    accepted_us   bigint NOT NULL,
    PRIMARY KEY (namespace, key, id)
);
COMMENT ON TABLE served IS 'What readers were served under a name: a row whenever a job named another input, score, version or ranking than before.';
COMMENT ON COLUMN served.id IS 'A name''s rows in the order in which they were written.';
COMMENT ON COLUMN served.served_from IS 'When the job had ended; the row serves until the name''s next one, or until the entry expires.';
COMMENT ON COLUMN served.input_sha256 IS 'SHA-256 of the normalised input; of a ranking, that of its items'' keys and scores.';
COMMENT ON COLUMN served.items IS 'A ranking''s keys and scores; nothing for an entry.';
COMMENT ON COLUMN served.inputs_sha256 IS 'The hashes of a ranking''s inputs, 32 bytes each, in the order of its items.';
COMMENT ON COLUMN served.is_removed IS 'The name was removed.';
COMMENT ON COLUMN served.order_kind IS 's: the producer''s sequence; t: a moment in microseconds. order_value holds it.';
COMMENT ON COLUMN served.accepted_us IS 'When a worker first accepted the job, in microseconds since 1970.';
CREATE INDEX served_from ON served USING brin (served_from);
