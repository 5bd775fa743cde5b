-- The ways the tables are asked, beside their keys: by run, by product over all runs, by category, by cache key.
-- The two on taxonomy_id also let a category be replaced without a scan of all assignments.
CREATE INDEX IF NOT EXISTS product_taxonomies_run_id ON product_taxonomies (run_id);
CREATE INDEX IF NOT EXISTS run_products_product_id ON run_products (product_id);
CREATE INDEX IF NOT EXISTS product_segments_product_id ON product_segments (product_id);
CREATE INDEX IF NOT EXISTS product_segments_taxonomy_id ON product_segments (taxonomy_id);
CREATE INDEX IF NOT EXISTS refined_product_segments_product_id ON refined_product_segments (product_id);
CREATE INDEX IF NOT EXISTS refined_product_segments_taxonomy_id ON refined_product_segments (taxonomy_id);
CREATE INDEX IF NOT EXISTS llm_interaction_index_run_id ON llm_interaction_index (run_id);
CREATE INDEX IF NOT EXISTS llm_interaction_index_cache_key ON llm_interaction_index (cache_key);
