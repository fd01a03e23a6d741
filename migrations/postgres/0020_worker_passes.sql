ALTER TABLE workers ADD COLUMN passes jsonb;
COMMENT ON COLUMN workers.passes IS 'How long its passes took: see WorkerPasses in src/store/fleet.rs. Beside the figures, since it is larger, and written less often.';
