-- Begins the move of `jobs` into partitions. Whatever is written to `jobs` from here on is noted in `job_ids_next` as well, and the rows that are there
-- are filled in afterwards, by blocks of the table. In one transaction, which waits no longer than `lock_timeout` for who writes.
-- Not under its last name yet: a server that was left behind at the end of the move has no table that a worker which knows that end could write to.
CREATE TABLE job_ids_next (
    job_id      text COLLATE "C" CONSTRAINT job_ids_pkey PRIMARY KEY,
    status      text NOT NULL CONSTRAINT job_ids_status_check CHECK (status IN ('ok', 'rejected')),
    hits        integer NOT NULL DEFAULT 0,
    misses      integer NOT NULL DEFAULT 0,
    elapsed_ms  double precision,
    finished_at timestamptz NOT NULL,
    body_sha256 bytea NOT NULL,
    rejection   jsonb
);
COMMENT ON TABLE job_ids_next IS 'One row a job: what tells a repeat from a conflict. Its results are in job_results; the view jobs shows both as one.';
COMMENT ON COLUMN job_ids_next.rejection IS 'Of a rejected job: error, with code, field and message; model and namespace.';
CREATE INDEX job_ids_finished_at ON job_ids_next USING brin (finished_at);
CREATE INDEX job_ids_by_time ON job_ids_next (finished_at, job_id);
CREATE INDEX job_ids_rejected ON job_ids_next (finished_at, job_id) WHERE status = 'rejected';

CREATE TABLE job_results (
    job_id      text COLLATE "C" NOT NULL,
    model       text,
    version     text,
    namespace   text,
    results     jsonb,
    finished_at timestamptz NOT NULL,
    -- Rows come in this order, so that an index of it grows at its end only.
    CONSTRAINT job_results_key PRIMARY KEY (finished_at, job_id)
) PARTITION BY RANGE (finished_at);
COMMENT ON TABLE job_results IS 'The results of finished jobs, a partition a day in UTC: job_results_YYYYMMDD.';

-- Whether a day has its partition. A table of its name that is none is somebody's: it isn't touched.
CREATE FUNCTION kiln_has_job_day(partition text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF to_regclass(partition) IS NULL THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(partition) AND inhparent = 'job_results'::regclass) THEN
        RAISE duplicate_table USING MESSAGE = format('%I is no partition of job_results: attach it, or give it another name', partition);
    END IF;
    RETURN true;
END $$;

-- Makes a day's partition where there is none. Whoever may insert rows may call it; workers need not own the table.
CREATE FUNCTION kiln_add_job_day(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    partition text := 'job_results_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF kiln_has_job_day(partition) THEN
        RETURN false;
    END IF;
    IF NOT has_table_privilege(session_user, 'job_results', 'INSERT') THEN
        RAISE insufficient_privilege USING MESSAGE = format('%I may not insert into job_results', session_user);
    END IF;
    -- One at a time; the one that waited looks again.
    PERFORM pg_advisory_xact_lock(1802071150, 'job_results'::regclass::oid::int);
    IF kiln_has_job_day(partition) THEN
        RETURN false;
    END IF;
    -- Attaching one that was made apart holds up nobody who writes or reads.
    EXECUTE format('CREATE TABLE %I (LIKE job_results INCLUDING DEFAULTS)', partition);
    EXECUTE format('ALTER TABLE job_results ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, day::timestamptz, (day + 1)::timestamptz);
    RETURN true;
END $$;

-- Drops a day's partition. Whoever may delete rows may call it.
CREATE FUNCTION kiln_drop_job_day(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT has_table_privilege(session_user, 'job_results', 'DELETE') THEN
        RAISE insufficient_privilege USING MESSAGE = format('%I may not delete from job_results', session_user);
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %I', 'job_results_' || to_char(day, 'YYYYMMDD'));
END $$;

-- The view of that, as scripts know the table. While there are results from before the move, it shows them as well. By a job's id it looks into the
-- one partition that can hold its results.
CREATE FUNCTION kiln_show_jobs(with_before boolean) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    shown text := 'CREATE OR REPLACE VIEW jobs AS SELECT i.job_id, i.status, coalesce(%1$s, i.rejection->>''model'') AS model, coalesce(%2$s) AS version,'
        ' coalesce(%3$s, i.rejection->>''namespace'') AS namespace, i.hits, i.misses, coalesce(%4$s) AS results, i.rejection->''error'' AS error,'
        ' i.elapsed_ms, i.body_sha256, i.finished_at'
        ' FROM job_ids AS i LEFT JOIN job_results AS r ON r.finished_at = i.finished_at AND r.job_id = i.job_id';
BEGIN
    IF with_before THEN
        shown := shown || ' LEFT JOIN jobs_before AS b ON b.finished_at = i.finished_at AND b.job_id = i.job_id';
        EXECUTE format(shown, 'r.model, b.model', 'r.version, b.version', 'r.namespace, b.namespace', 'r.results, b.results');
    ELSE
        EXECUTE format(shown, 'r.model', 'r.version', 'r.namespace', 'r.results');
    END IF;
END $$;

-- Drops what was there before the move, once all of it is older than that; says whether it is gone.
CREATE FUNCTION kiln_drop_jobs_before(age timestamptz) RETURNS boolean
-- By its index, which skips what is older.
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF to_regclass('jobs_before') IS NULL THEN
        RETURN true;
    END IF;
    IF NOT has_table_privilege(session_user, 'job_results', 'DELETE') THEN
        RAISE insufficient_privilege USING MESSAGE = format('%I may not delete from job_results', session_user);
    END IF;
    IF EXISTS (SELECT FROM jobs_before WHERE finished_at >= age) THEN
        RETURN false;
    END IF;
    PERFORM kiln_show_jobs(false);
    DROP TABLE jobs_before;
    RETURN true;
END $$;

-- What has the right to use `jobs` has it on what comes instead.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT acl.privilege_type AS what, coalesce(quote_ident(role.rolname), 'PUBLIC') AS who
        FROM pg_class, aclexplode(relacl) AS acl LEFT JOIN pg_roles AS role ON role.oid = acl.grantee
        WHERE pg_class.oid = 'jobs'::regclass AND acl.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('GRANT %s ON job_ids_next, job_results TO %s', granted.what, granted.who);
    END LOOP;
END $$;

-- How far the rows that are there have been filled in, by blocks of the file in which they are.
CREATE TABLE job_partitioning (
    file   oid PRIMARY KEY,
    blocks bigint NOT NULL,
    done   bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE job_partitioning IS 'How far the move of jobs into partitions is. It goes on with kiln migrate --partition, and drops this table.';
INSERT INTO job_partitioning (file, blocks)
SELECT pg_relation_filenode('jobs'), pg_relation_size('jobs') / current_setting('block_size')::bigint;

-- Notes what is written to `jobs`. A deletion waits for the blocks that are being filled in: they may have read its rows.
CREATE FUNCTION kiln_note_jobs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_WHEN = 'BEFORE' THEN
        PERFORM pg_advisory_xact_lock_shared(1802071150, 'job_ids_next'::regclass::oid::int);
    ELSIF TG_OP = 'TRUNCATE' THEN
        TRUNCATE job_ids_next;
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM job_ids_next USING gone WHERE job_ids_next.job_id = gone.job_id;
    ELSE
        INSERT INTO job_ids_next (job_id, status, hits, misses, elapsed_ms, finished_at, body_sha256, rejection)
        SELECT job_id, status, hits, misses, elapsed_ms, finished_at, body_sha256,
            CASE status WHEN 'rejected' THEN jsonb_build_object('error', error, 'model', model, 'namespace', namespace) END
        FROM written ORDER BY job_id
        ON CONFLICT (job_id) DO UPDATE SET status = excluded.status, hits = excluded.hits, misses = excluded.misses,
            elapsed_ms = excluded.elapsed_ms, finished_at = excluded.finished_at, body_sha256 = excluded.body_sha256, rejection = excluded.rejection;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER kiln_note_inserted AFTER INSERT ON jobs REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION kiln_note_jobs();
CREATE TRIGGER kiln_note_updated AFTER UPDATE ON jobs REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION kiln_note_jobs();
CREATE TRIGGER kiln_note_deleting BEFORE DELETE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION kiln_note_jobs();
CREATE TRIGGER kiln_note_deleted AFTER DELETE ON jobs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION kiln_note_jobs();
CREATE TRIGGER kiln_note_truncating BEFORE TRUNCATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION kiln_note_jobs();
CREATE TRIGGER kiln_note_truncated AFTER TRUNCATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION kiln_note_jobs();

-- Fills in some blocks; says how many are done, of how many.
CREATE FUNCTION kiln_fill_job_ids(many bigint, OUT filled bigint, OUT wanted bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    start bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1802071150, 'job_ids_next'::regclass::oid::int);
    -- A table that was written anew has its rows elsewhere.
    UPDATE job_partitioning SET file = pg_relation_filenode('jobs'), done = 0, blocks = pg_relation_size('jobs') / current_setting('block_size')::bigint
    WHERE file <> pg_relation_filenode('jobs');
    SELECT done INTO start FROM job_partitioning;
    INSERT INTO job_ids_next (job_id, status, hits, misses, elapsed_ms, finished_at, body_sha256, rejection)
    SELECT job_id, status, hits, misses, elapsed_ms, finished_at, body_sha256,
        CASE status WHEN 'rejected' THEN jsonb_build_object('error', error, 'model', model, 'namespace', namespace) END
    FROM jobs WHERE ctid >= format('(%s,0)', start)::tid AND ctid < format('(%s,0)', start + many)::tid
    ORDER BY job_id
    ON CONFLICT (job_id) DO NOTHING;
    UPDATE job_partitioning SET done = least(start + many, greatest(blocks, start)) RETURNING done, blocks INTO filled, wanted;
END $$;
