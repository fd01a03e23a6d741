-- What operators have paused: `intake`, or `schedule:NAME`.
CREATE TABLE controls (
    name text COLLATE "C" PRIMARY KEY,
    paused_by text NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT now()
);
