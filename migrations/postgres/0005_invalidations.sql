CREATE TABLE invalidations (
    namespace      text COLLATE "C" PRIMARY KEY,
    stamp          bigint NOT NULL,
    change         bigint NOT NULL,
    at             timestamptz NOT NULL DEFAULT now(),
    removed_on     text,
    removing_until timestamptz
);
COMMENT ON TABLE invalidations IS 'Each namespace''s latest invalidation, and under the empty name the latest of all.';
COMMENT ON COLUMN invalidations.stamp IS 'Milliseconds since 1970, and always more than any before: entries with a lower stamp are invalid for the namespace.';
COMMENT ON COLUMN invalidations.change IS 'Rises with every change, in the order in which changes are committed.';
COMMENT ON COLUMN invalidations.removed_on IS 'The Redis server, by its run, from which all that readers found before is removed.';
COMMENT ON COLUMN invalidations.removing_until IS 'When, by the database''s clock, another worker may take over removing it.';
