-- How each of the two transactions that move `jobs` into partitions begins: with the table's lock, and refused where something would be left behind.
-- In the schema of the table, and with nobody's temporary tables before it.
SELECT set_config('search_path', quote_ident(nspname) || ', pg_temp', true)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = 'jobs'::regclass;
LOCK TABLE jobs IN LOCK_MODE MODE;

DO $$
DECLARE
    owner name;
    others text;
BEGIN
    SELECT pg_get_userbyid(relowner) INTO owner FROM pg_class WHERE oid = 'jobs'::regclass;
    IF owner <> current_user THEN
        RAISE insufficient_privilege USING MESSAGE =
            format('jobs belongs to %1$I: what %2$I makes in its place would be %2$I''s, and closed to %1$I; move it as %1$I', owner, current_user);
    END IF;
    -- They know the table by its number, not by its name.
    SELECT string_agg(DISTINCT pg_describe_object(classid, objid, 0), ', ') INTO others FROM pg_depend
    WHERE refclassid = 'pg_class'::regclass AND refobjid = 'jobs'::regclass AND (
        classid IN ('pg_rewrite'::regclass, 'pg_publication_rel'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass)
        OR (classid = 'pg_constraint'::regclass AND objid IN (SELECT oid FROM pg_constraint WHERE confrelid = 'jobs'::regclass))
        OR (classid = 'pg_trigger'::regclass AND objid IN (SELECT oid FROM pg_trigger WHERE NOT tgisinternal AND tgname NOT LIKE 'kiln\_note\_%')));
    IF others IS NOT NULL THEN
        RAISE dependent_objects_still_exist USING MESSAGE =
            format('%s: made on the table jobs, which would take it along to where nothing is written any more; drop it, and make it anew after the move', others);
    END IF;
END $$;
