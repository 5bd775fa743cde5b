-- The key of a category (`C-4`), which it keeps in the runs that are made from its run; no key: a run of before keys.
ALTER TABLE product_taxonomies ADD COLUMN IF NOT EXISTS category_key TEXT;

COMMENT ON COLUMN product_taxonomies.category_key IS
    'Given once, kept through assignments, edits and extensions; never used again in the runs that follow.';

-- Whoever may read the names of categories, but not the whole table, may read their keys too: the views need them.
DO $$
DECLARE
    reader record;
BEGIN
    FOR reader IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
        FROM pg_attribute, aclexplode(attacl)
        WHERE attrelid = 'product_taxonomies'::regclass AND attname = 'category_name' AND privilege_type = 'SELECT'
    LOOP
        EXECUTE format('GRANT SELECT (category_key) ON product_taxonomies TO %s', reader.role);
    END LOOP;
END
$$;

-- The columns of before, then the new one.
CREATE OR REPLACE VIEW current_product_segments WITH (security_invoker = true) AS
SELECT DISTINCT ON (run_products.product_id)
    run_products.product_id,
    run_products.run_id,
    segmentation_runs.created_at,
    product_taxonomies.category_name,
    product_taxonomies.definition,
    CASE WHEN refined.taxonomy_id <> product_segments.taxonomy_id
         THEN product_moves.confidence ELSE product_segments.confidence END AS confidence,
    refined.taxonomy_id IS NOT NULL AS is_refined,
    product_keys.source_id,
    first_taxonomies.category_name AS first_category_name,
    product_segments.confidence AS first_confidence,
    product_taxonomies.category_key
FROM run_products
JOIN segmentation_runs ON segmentation_runs.id = run_products.run_id AND segmentation_runs.status = 'completed'
LEFT JOIN refined_product_segments AS refined
    ON refined.run_id = run_products.run_id AND refined.product_id = run_products.product_id
LEFT JOIN product_segments
    ON product_segments.run_id = run_products.run_id AND product_segments.product_id = run_products.product_id
LEFT JOIN product_taxonomies
    ON product_taxonomies.id = COALESCE(refined.taxonomy_id, product_segments.taxonomy_id)
LEFT JOIN product_taxonomies AS first_taxonomies ON first_taxonomies.id = product_segments.taxonomy_id
LEFT JOIN product_moves
    ON product_moves.run_id = run_products.run_id AND product_moves.product_id = run_products.product_id
LEFT JOIN product_keys ON product_keys.product_id = run_products.product_id
ORDER BY run_products.product_id, segmentation_runs.created_at DESC, segmentation_runs.id DESC;

CREATE OR REPLACE VIEW category_shares WITH (security_invoker = true) AS
SELECT
    run_products.run_id,
    product_taxonomies.category_name,
    COUNT(*) AS products,
    COUNT(*) / SUM(COUNT(*)) OVER (PARTITION BY run_products.run_id) AS share,
    product_taxonomies.category_key
FROM run_products
LEFT JOIN refined_product_segments AS refined
    ON refined.run_id = run_products.run_id AND refined.product_id = run_products.product_id
LEFT JOIN product_segments
    ON product_segments.run_id = run_products.run_id AND product_segments.product_id = run_products.product_id
LEFT JOIN product_taxonomies
    ON product_taxonomies.id = COALESCE(refined.taxonomy_id, product_segments.taxonomy_id)
GROUP BY run_products.run_id, product_taxonomies.category_name, product_taxonomies.category_key;
