-- The tables of a run: a copy of its folder, which stays the truth.

-- The products of the store. A table that is already there is its owner's and is not touched; one that is made
-- here is filled by segkit from the products of the runs, and its comment is how segkit knows.
DO $$
BEGIN
    IF to_regclass('amazon_products') IS NULL THEN
        CREATE TABLE amazon_products (
            id        BIGINT PRIMARY KEY,
            title     TEXT,
            brand     TEXT,
            price_usd NUMERIC,
            category  TEXT
        );
        COMMENT ON TABLE amazon_products IS 'made and filled by segkit';
    END IF;
END
$$;

-- Segmentation run tracking
CREATE TABLE IF NOT EXISTS segmentation_runs (
    id              VARCHAR(50)  PRIMARY KEY,
    created_at      TIMESTAMPTZ  DEFAULT NOW(),
    status          VARCHAR(20)  DEFAULT 'running',  -- 'running'|'completed'|'failed'
    model_config    JSONB,
    processing_params JSONB,
    total_products  INT,
    processed_products INT DEFAULT 0,
    result_summary  JSONB
);

-- Explicit product input list
CREATE TABLE IF NOT EXISTS run_products (
    run_id        VARCHAR(50) REFERENCES segmentation_runs(id) ON DELETE CASCADE,
    product_id    BIGINT      REFERENCES amazon_products(id),
    PRIMARY KEY (run_id, product_id)
);

-- Generated taxonomies/categories
CREATE TABLE IF NOT EXISTS product_taxonomies (
    id           BIGSERIAL PRIMARY KEY,
    run_id       VARCHAR(50) REFERENCES segmentation_runs(id),
    category_name   VARCHAR(255),
    definition      TEXT,
    product_count   INT DEFAULT 0
);

-- Final product assignments (first-pass)
CREATE TABLE IF NOT EXISTS product_segments (
    run_id       VARCHAR(50) REFERENCES segmentation_runs(id),
    product_id   BIGINT      REFERENCES amazon_products(id),
    taxonomy_id  BIGINT      REFERENCES product_taxonomies(id),
    confidence   FLOAT,
    PRIMARY KEY (run_id, product_id)
);

-- *Refined* product assignments (post-LLM refinement)
CREATE TABLE IF NOT EXISTS refined_product_segments (
    run_id       VARCHAR(50) REFERENCES segmentation_runs(id),
    product_id   BIGINT      REFERENCES amazon_products(id),
    taxonomy_id  BIGINT      REFERENCES product_taxonomies(id),
    PRIMARY KEY (run_id, product_id)
);

-- LLM interaction file index
CREATE TABLE IF NOT EXISTS llm_interaction_index (
    id               BIGSERIAL PRIMARY KEY,
    run_id           VARCHAR(50) REFERENCES segmentation_runs(id),
    interaction_type VARCHAR(50),  -- 'segmentation'|'consolidate_taxonomy'|'refine_assignments'
    batch_id         INT,
    attempt          INT,
    file_path        TEXT,         -- local or S3 URI
    prompt_file      TEXT,         -- path to archived prompt
    cache_key        VARCHAR(32),
    created_at       TIMESTAMPTZ DEFAULT NOW()
);
