-- What became of what a model scored, oldest label first: the label's time, the label, the features, and the serving version's score, if it has one.
-- $1 is the model, $2 and $3 from when to when labels are taken, $4 the version that serves.
-- An input belongs to the key that it had when a version scored it first; a label, to the input that its key had last before it.
WITH known AS (
    SELECT DISTINCT ON (namespace, key, labelled_at) labelled_at, labels.label, input_sha256, features
    FROM labels JOIN scores USING (namespace, key)
    WHERE model = $1 AND features IS NOT NULL AND labelled_at >= $2 AND labelled_at < $3 AND scored_at <= labelled_at
    ORDER BY namespace, key, labelled_at, scored_at DESC
)
SELECT known.labelled_at, known.label, known.features, served.score
FROM known LEFT JOIN scores AS served ON served.input_sha256 = known.input_sha256 AND served.model = $1 AND served.version = $4
ORDER BY known.labelled_at, known.input_sha256
