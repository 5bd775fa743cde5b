-- How long completed runs took, in seconds and in seconds a thousand products, by model.
CREATE OR REPLACE VIEW run_times AS
SELECT
    model,
    count(*) AS runs,
    sum(products)::BIGINT AS products,
    min(seconds) AS min_seconds,
    quantile_cont(seconds, 0.50) AS p50_seconds,
    quantile_cont(seconds, 0.95) AS p95_seconds,
    max(seconds) AS max_seconds,
    quantile_cont(1000 * seconds / products, 0.50) AS p50_seconds_per_thousand
FROM run_states
WHERE state = 'completed' AND seconds IS NOT NULL AND products > 0
GROUP BY ALL;
