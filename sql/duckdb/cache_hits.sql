-- How many answers of each stage came from the cache, and what they had cost where they were paid for.
CREATE OR REPLACE VIEW cache_hits AS
WITH answers AS (
    SELECT run_id, interaction_type, cache_key, split_part(cached_from, '/', 1) AS from_run
    FROM interactions
    WHERE cached_from IS NOT NULL OR money <> 'not_paid'
),
paid AS (
    SELECT run_id, cache_key, any_value(cost_usd) AS cost_usd
    FROM interactions
    WHERE cached_from IS NULL AND outcome = 'valid'
    GROUP BY ALL
)
SELECT
    answers.run_id,
    answers.interaction_type,
    count(*) AS answers,
    count(from_run) AS cached,
    count(from_run) / count(*) AS share,
    sum(paid.cost_usd) AS saved_usd,
    count(from_run) - count(paid.cost_usd) AS unknown_saving
FROM answers
LEFT JOIN paid ON paid.run_id = answers.from_run AND paid.cache_key = answers.cache_key
GROUP BY ALL;
