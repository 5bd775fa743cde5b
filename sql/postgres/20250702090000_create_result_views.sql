-- What people ask of the results, over all runs. Both views show what their reader may see, row level security
-- included, and both take the refined assignment of a product where there is one, else the first-pass one.
CREATE OR REPLACE VIEW current_product_segments WITH (security_invoker = true) AS
SELECT DISTINCT ON (run_products.product_id)
    run_products.product_id,
    run_products.run_id,
    segmentation_runs.created_at,
    product_taxonomies.category_name,
    product_taxonomies.definition,
    product_segments.confidence,
    refined.taxonomy_id IS NOT NULL AS is_refined
FROM run_products
JOIN segmentation_runs ON segmentation_runs.id = run_products.run_id AND segmentation_runs.status = 'completed'
LEFT JOIN refined_product_segments AS refined
    ON refined.run_id = run_products.run_id AND refined.product_id = run_products.product_id
LEFT JOIN product_segments
    ON product_segments.run_id = run_products.run_id AND product_segments.product_id = run_products.product_id
LEFT JOIN product_taxonomies
    ON product_taxonomies.id = COALESCE(refined.taxonomy_id, product_segments.taxonomy_id)
ORDER BY run_products.product_id, segmentation_runs.created_at DESC, segmentation_runs.id DESC;

COMMENT ON VIEW current_product_segments IS
    'Each product with its category in the latest completed run that had it; no category: it stayed unassigned.';

CREATE OR REPLACE VIEW category_shares WITH (security_invoker = true) AS
SELECT
    run_products.run_id,
    product_taxonomies.category_name,
    COUNT(*) AS products,
    COUNT(*) / SUM(COUNT(*)) OVER (PARTITION BY run_products.run_id) AS share
FROM run_products
LEFT JOIN refined_product_segments AS refined
    ON refined.run_id = run_products.run_id AND refined.product_id = run_products.product_id
LEFT JOIN product_segments
    ON product_segments.run_id = run_products.run_id AND product_segments.product_id = run_products.product_id
LEFT JOIN product_taxonomies
    ON product_taxonomies.id = COALESCE(refined.taxonomy_id, product_segments.taxonomy_id)
GROUP BY run_products.run_id, product_taxonomies.category_name;

COMMENT ON VIEW category_shares IS
    'The products of each category of a run, and their share of all products of the run; no category: unassigned.';
