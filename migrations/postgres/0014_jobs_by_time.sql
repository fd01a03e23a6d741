-- What lists jobs, the latest first, a page at a time; and those that were rejected, however few they are. Where jobs are in partitions, or on their way
-- there, by the table of their ids. An index of that name that is there already was built beforehand.
DO $$
BEGIN
    IF to_regclass('job_ids') IS NULL THEN
        CREATE INDEX IF NOT EXISTS jobs_by_time ON jobs (finished_at, job_id);
        CREATE INDEX IF NOT EXISTS jobs_rejected ON jobs (finished_at, job_id) WHERE status = 'rejected';
    ELSE
        CREATE INDEX IF NOT EXISTS job_ids_by_time ON job_ids (finished_at, job_id);
        CREATE INDEX IF NOT EXISTS job_ids_rejected ON job_ids (finished_at, job_id) WHERE status = 'rejected';
    END IF;
    IF to_regclass('job_ids_next') IS NOT NULL THEN
        CREATE INDEX IF NOT EXISTS job_ids_by_time ON job_ids_next (finished_at, job_id);
        CREATE INDEX IF NOT EXISTS job_ids_rejected ON job_ids_next (finished_at, job_id) WHERE status = 'rejected';
    END IF;
END $$;
