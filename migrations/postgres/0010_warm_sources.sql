ALTER TABLE warm_positions
    ADD COLUMN source_digest bytea;
COMMENT ON COLUMN warm_positions.source_digest IS 'SHA-256 of what is followed: the database, and the table with the column of positions, or the statement. Empty: nobody has said.';
