CREATE TABLE cancelled_runs (
    name         text COLLATE "C" PRIMARY KEY,
    cancelled_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cancelled_runs IS 'Runs of files over the fleet that were cancelled: workers drop their jobs on arrival. A mark is forgotten after 30 days.';
