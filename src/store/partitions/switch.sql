-- Ends the move of `jobs` into partitions: the view takes the table's name, and the table holds what was there before. In one transaction,
-- which waits no longer than `lock_timeout` for who reads or writes.

DO $$
DECLARE
    granted record;
BEGIN
    IF EXISTS (SELECT FROM job_partitioning WHERE done < blocks OR file <> pg_relation_filenode('jobs')) THEN
        RAISE EXCEPTION 'the rows of jobs are not all filled in';
    END IF;
    DROP TRIGGER kiln_note_inserted ON jobs;
    DROP TRIGGER kiln_note_updated ON jobs;
    DROP TRIGGER kiln_note_deleting ON jobs;
    DROP TRIGGER kiln_note_deleted ON jobs;
    DROP TRIGGER kiln_note_truncating ON jobs;
    DROP TRIGGER kiln_note_truncated ON jobs;
    DROP FUNCTION kiln_note_jobs();
    DROP FUNCTION kiln_fill_job_ids(bigint);
    DROP TABLE job_partitioning;
    ALTER TABLE job_ids_next RENAME TO job_ids;
    ALTER TABLE jobs RENAME TO jobs_before;
    COMMENT ON TABLE jobs_before IS 'The results of jobs from before the move into partitions; nothing is written here any more.';
    PERFORM kiln_show_jobs(true);
    COMMENT ON VIEW jobs IS 'One row a job: its results, or why it was rejected. Kiln writes job_ids and job_results.';
    FOR granted IN
        SELECT DISTINCT coalesce(quote_ident(role.rolname), 'PUBLIC') AS who
        FROM pg_class, aclexplode(relacl) AS acl LEFT JOIN pg_roles AS role ON role.oid = acl.grantee
        WHERE pg_class.oid = 'jobs_before'::regclass AND acl.privilege_type = 'SELECT'
    LOOP
        EXECUTE format('GRANT SELECT ON jobs TO %s', granted.who);
    END LOOP;
    IF NOT EXISTS (SELECT FROM jobs_before) THEN
        PERFORM kiln_show_jobs(false);
        DROP TABLE jobs_before;
    END IF;
END $$;
