-- The slots of each prompt: which product or category stood at which place, under which local id.
CREATE OR REPLACE VIEW prompt_slots AS
WITH slots AS (
    SELECT
        run_id,
        interaction_type,
        batch_id,
        part,
        attempt,
        unnest(expected_ids) AS local_id,
        unnest(coalesce(product_ids, [])) AS product_id,
        unnest(coalesce(batch_products, [])) AS text,
        unnest(range(len(expected_ids))) AS slot,
        file_path
    FROM logged
)
FROM slots;
