-- What other tables have no column for: the ids as people have them, and how sure a model was of a move.

-- Products whose id is a text, such as an ASIN or a SKU: `product_id` is computed from it.
CREATE TABLE IF NOT EXISTS product_keys (
    product_id BIGINT PRIMARY KEY,
    source_id  TEXT NOT NULL UNIQUE
);

-- The products that refinement moved to another category, with the confidence of the move.
CREATE TABLE IF NOT EXISTS product_moves (
    run_id     VARCHAR(50) REFERENCES segmentation_runs(id),
    product_id BIGINT      REFERENCES amazon_products(id),
    confidence FLOAT,
    PRIMARY KEY (run_id, product_id)
);
CREATE INDEX IF NOT EXISTS product_moves_product_id ON product_moves (product_id);

-- Whoever reads the products of runs may read these too: the view below needs them.
DO $$
DECLARE
    reader record;
BEGIN
    FOR reader IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'run_products'::regclass AND privilege_type = 'SELECT' AND grantee <> relowner
    LOOP
        EXECUTE format('GRANT SELECT ON product_keys, product_moves TO %s', reader.role);
    END LOOP;
END
$$;

-- The columns of before, then the new ones; the confidence is now that of the category at the end.
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
    product_segments.confidence AS first_confidence
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
