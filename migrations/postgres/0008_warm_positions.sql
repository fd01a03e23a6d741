-- How far the tables that schedules follow have been read.
CREATE TABLE warm_positions (
    schedule      text COLLATE "C" PRIMARY KEY,
    position_kind "char" NOT NULL,
    position      bigint NOT NULL,
    noted_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE warm_positions IS 'How far each schedule has followed its table: whatever changed up to its position has been served.';
COMMENT ON COLUMN warm_positions.position_kind IS 's: a number; t: a moment in microseconds since 1970. position holds it.';
COMMENT ON COLUMN warm_positions.noted_at IS 'When that was written.';
