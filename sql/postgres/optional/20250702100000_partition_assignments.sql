-- Optional, for installations with many large runs: `segkit db migrate --partitioned`.
--
-- The two tables of assignments are partitioned by the hash of their run, so that vacuum, indexes and the deletion of
-- a run work on a sixteenth of the rows. Rows, keys, indexes, grants and views stay. The tables are locked while
-- their rows are copied, in one transaction; it needs as much free disk as they have. What this file would not carry
-- over stops it before anything is changed.
DO $$
DECLARE
    base    text;
    fresh   text;
    owner   text;
    secured boolean;
    found   text;
    part    int;
    granted record;
    kept    record;
BEGIN
    CREATE TEMP TABLE segkit_views ON COMMIT DROP AS
    SELECT relname AS name, pg_get_viewdef(oid) AS body, obj_description(oid, 'pg_class') AS told,
           relacl AS rights, pg_get_userbyid(relowner) AS owner
    FROM pg_class
    WHERE oid IN (to_regclass('current_product_segments'), to_regclass('category_shares'));

    FOREACH base IN ARRAY ARRAY['product_segments', 'refined_product_segments'] LOOP
        CONTINUE WHEN (SELECT relkind = 'p' FROM pg_class WHERE oid = base::regclass);
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', base);

        SELECT string_agg(what, ', ') INTO found FROM (
            SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = base::regclass AND NOT tgisinternal
            UNION ALL SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = base::regclass
            UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = base::regclass
            UNION ALL SELECT 'grant on the column ' || attname FROM pg_attribute
                      WHERE attrelid = base::regclass AND attacl IS NOT NULL
            UNION ALL SELECT 'column ' || attname FROM pg_attribute
                      WHERE attrelid = base::regclass AND attnum > 0 AND NOT attisdropped
                        AND attname <> ALL ('{run_id,product_id,taxonomy_id,confidence}')
            UNION ALL SELECT 'index ' || indexrelid::regclass FROM pg_index
                      WHERE indrelid = base::regclass AND indexrelid::regclass::text <> ALL (ARRAY[
                          base || '_pkey', base || '_product_id', base || '_taxonomy_id'])
            UNION ALL SELECT 'constraint ' || conname FROM pg_constraint
                      WHERE conrelid = base::regclass AND contype NOT IN ('p', 'n')
                        AND conname <> ALL (ARRAY[base || '_run_id_fkey', base || '_product_id_fkey',
                                                  base || '_taxonomy_id_fkey'])
        ) AS own (what);
        IF found IS NOT NULL THEN
            RAISE EXCEPTION '% has what would be lost: %', base, found
                USING HINT = 'drop it, run segkit db migrate --partitioned again, and make it anew';
        END IF;

        SELECT pg_get_userbyid(relowner), relrowsecurity INTO owner, secured FROM pg_class WHERE oid = base::regclass;
        fresh := base || '_partitioned';
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING COMMENTS) PARTITION BY HASH (run_id)',
                       fresh, base);
        FOR part IN 0..15 LOOP
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
                           base || '_' || to_char(part, 'FM00'), fresh, part);
            EXECUTE format('ALTER TABLE %I OWNER TO %I', base || '_' || to_char(part, 'FM00'), owner);
            IF secured THEN  -- a partition can be read by its own name too
                EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', base || '_' || to_char(part, 'FM00'));
            END IF;
        END LOOP;
        IF secured THEN
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', fresh);
        END IF;
        EXECUTE format('INSERT INTO %I SELECT * FROM %I ORDER BY run_id, product_id', fresh, base);
        EXECUTE format('ALTER TABLE %I OWNER TO %I', fresh, owner);
        FOR granted IN  -- what ALTER DEFAULT PRIVILEGES gave away; partitions need no rights of their own
            SELECT DISTINCT relname, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
                AS role
            FROM pg_class, aclexplode(relacl)
            WHERE (oid = fresh::regclass OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = fresh::regclass))
              AND grantee <> relowner
        LOOP
            EXECUTE format('REVOKE ALL ON %I FROM %s', granted.relname, granted.role);
        END LOOP;
        FOR granted IN
            SELECT privilege_type AS kind, is_grantable,
                   CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
            FROM pg_class, aclexplode(relacl) WHERE oid = base::regclass AND grantee <> relowner
        LOOP
            EXECUTE format('GRANT %s ON %I TO %s %s', granted.kind, fresh, granted.role,
                           CASE WHEN granted.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END);
        END LOOP;

        DROP VIEW IF EXISTS current_product_segments, category_shares;
        EXECUTE format('DROP TABLE %I', base);
        EXECUTE format('ALTER TABLE %I RENAME TO %I', fresh, base);
        EXECUTE format('ALTER TABLE %1$I ADD CONSTRAINT %2$I PRIMARY KEY (run_id, product_id)', base, base || '_pkey');
        EXECUTE format('ALTER TABLE %1$I
            ADD CONSTRAINT %2$I FOREIGN KEY (run_id) REFERENCES segmentation_runs (id),
            ADD CONSTRAINT %3$I FOREIGN KEY (product_id) REFERENCES amazon_products (id),
            ADD CONSTRAINT %4$I FOREIGN KEY (taxonomy_id) REFERENCES product_taxonomies (id)',
            base, base || '_run_id_fkey', base || '_product_id_fkey', base || '_taxonomy_id_fkey');
        EXECUTE format('CREATE INDEX %2$I ON %1$I (product_id)', base, base || '_product_id');
        EXECUTE format('CREATE INDEX %2$I ON %1$I (taxonomy_id)', base, base || '_taxonomy_id');
    END LOOP;

    FOR kept IN SELECT * FROM segkit_views WHERE to_regclass(name) IS NULL LOOP
        EXECUTE format('CREATE VIEW %I WITH (security_invoker = true) AS %s', kept.name, kept.body);
        EXECUTE format('COMMENT ON VIEW %I IS %L', kept.name, kept.told);
        EXECUTE format('ALTER VIEW %I OWNER TO %I', kept.name, kept.owner);
        FOR granted IN
            SELECT privilege_type AS kind, CASE grantee WHEN 0 THEN 'PUBLIC'
                                           ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
            FROM aclexplode(kept.rights) WHERE pg_get_userbyid(grantee) <> kept.owner
        LOOP
            EXECUTE format('GRANT %s ON %I TO %s', granted.kind, kept.name, granted.role);
        END LOOP;
    END LOOP;
END
$$;
