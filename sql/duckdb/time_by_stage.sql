-- How long the calls of each stage took, in seconds. Answers from the cache took no call and do not count.
CREATE OR REPLACE VIEW time_by_stage AS
SELECT
    run_id,
    interaction_type,
    count(*) AS calls,
    quantile_cont(duration_ms, 0.50) / 1000 AS p50_seconds,
    quantile_cont(duration_ms, 0.95) / 1000 AS p95_seconds,
    max(duration_ms) / 1000 AS max_seconds
FROM interactions
WHERE cached_from IS NULL
GROUP BY ALL;
