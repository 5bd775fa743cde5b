-- What each stage of each run took, by model: calls that were or may have been paid, answers from the cache,
-- tokens, dollars and seconds. `unknown_usage` and `unknown_cost` count the calls that the sums know nothing of.
CREATE OR REPLACE VIEW spend_by_stage AS
SELECT
    run_id,
    interaction_type,
    model,
    count(*) FILTER (WHERE money <> 'not_paid') AS calls,
    count(cached_from) AS cached,
    sum(input_tokens) FILTER (WHERE money <> 'not_paid')::BIGINT AS input_tokens,
    sum(cached_tokens) FILTER (WHERE money <> 'not_paid')::BIGINT AS cached_tokens,
    sum(output_tokens) FILTER (WHERE money <> 'not_paid')::BIGINT AS output_tokens,
    count(*) FILTER (WHERE money <> 'not_paid' AND (input_tokens IS NULL OR output_tokens IS NULL)) AS unknown_usage,
    sum(cost_usd) AS cost_usd,
    count(*) FILTER (WHERE cost_usd IS NULL) AS unknown_cost,
    sum(duration_ms) / 1000 AS seconds
FROM interactions
GROUP BY ALL;
