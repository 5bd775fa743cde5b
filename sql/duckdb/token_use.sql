-- Tokens and dollars of paid calls, by day (UTC), model and stage; `unknown` counts calls the sums know nothing of.
CREATE OR REPLACE VIEW token_use AS
SELECT
    created_at::DATE AS day,
    model,
    interaction_type,
    count(*) AS calls,
    sum(input_tokens)::BIGINT AS input_tokens,
    sum(cached_tokens)::BIGINT AS cached_tokens,
    sum(output_tokens)::BIGINT AS output_tokens,
    sum(cost_usd) AS cost_usd,
    count(*) FILTER (WHERE input_tokens IS NULL OR output_tokens IS NULL OR cost_usd IS NULL) AS unknown
FROM interactions
WHERE money <> 'not_paid' AND cached_from IS NULL
GROUP BY ALL;
