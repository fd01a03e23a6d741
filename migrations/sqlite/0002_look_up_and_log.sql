-- What a row refers to by number.
CREATE TABLE models (
    id      integer PRIMARY KEY,
    model   text NOT NULL,
    version text NOT NULL,
    UNIQUE (model, version)
);

CREATE TABLE namespaces (
    id        integer PRIMARY KEY,
    namespace text NOT NULL UNIQUE
);

-- What a second run finds, and nothing else: small rows in the order of their keys, so that a large batch touches each page once.
-- `input` is the first half of the input's SHA-256.
CREATE TABLE outputs (
    input   blob NOT NULL,
    model   integer NOT NULL,
    outputs blob NOT NULL,
    PRIMARY KEY (input, model)
) WITHOUT ROWID;

-- What was scored, in the order in which it was stored: rows are added at the end. `scored_at` is in milliseconds.
CREATE TABLE inputs (
    id           integer PRIMARY KEY,
    input_sha256 blob NOT NULL,
    model        integer NOT NULL,
    namespace    integer NOT NULL,
    scored_at    integer NOT NULL,
    score        real,
    key          text,
    label        text,
    text         text,
    text_pair    text,
    features     blob
);

-- Its rows are moved when the file is opened; then it goes.
ALTER TABLE scores RENAME TO scores_before;

CREATE VIEW scores AS
SELECT i.input_sha256, m.model, m.version, n.namespace, i.key, i.label, i.score, o.outputs, i.text, i.text_pair, i.features,
       strftime('%Y-%m-%dT%H:%M:%fZ', i.scored_at / 1000.0, 'unixepoch') AS scored_at
FROM inputs i
JOIN models m ON m.id = i.model
JOIN namespaces n ON n.id = i.namespace
JOIN outputs o ON o.input = substr(i.input_sha256, 1, 16) AND o.model = i.model;
