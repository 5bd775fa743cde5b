-- One row an attempt: who asked what, when, how long it took, what it cost and what came of it.
--
-- `logs` holds the logs of open runs (file_path, bytes, context, metadata), `compacted` the
-- rows of finished runs. What a server did not report is NULL, never 0; only what surely was not paid costs 0.
CREATE OR REPLACE VIEW logged AS
WITH facts AS (
    SELECT
        file_path,
        bytes,
        json_transform(context, '{
            "expected_ids": ["VARCHAR"], "product_ids": ["BIGINT"], "batch_products": ["VARCHAR"]
        }') AS context,
        json_transform(metadata, '{
            "run_id": "VARCHAR", "interaction_type": "VARCHAR", "batch_id": "BIGINT", "part": "VARCHAR",
            "attempt": "BIGINT", "model": "VARCHAR", "temperature": "DOUBLE", "category": "VARCHAR",
            "cache_key": "VARCHAR", "timestamp": "VARCHAR", "duration_ms": "BIGINT", "money": "VARCHAR",
            "cost_usd": "VARCHAR", "cached_from": "VARCHAR", "outcome": "VARCHAR", "why": "VARCHAR",
            "finish_reason": "VARCHAR", "response_model": "VARCHAR", "request_id": "VARCHAR",
            "usage": {"input": "BIGINT", "cached": "BIGINT", "output": "BIGINT", "reasoning": "BIGINT"},
            "faults": ["VARCHAR"], "warnings": ["VARCHAR"]
        }') AS fact
    FROM logs
)
SELECT
    fact.run_id,
    fact.interaction_type,
    fact.batch_id,
    coalesce(fact.part, '') AS part,
    fact.attempt,
    fact.model,
    fact.temperature,
    fact.category,
    fact.cache_key,
    TRY_CAST(fact.timestamp AS TIMESTAMPTZ) AS created_at,
    fact.duration_ms,
    fact.money,
    CASE WHEN fact.money = 'not_paid' THEN 0 ELSE TRY_CAST(fact.cost_usd AS DECIMAL(20, 10)) END AS cost_usd,
    fact.cached_from,
    fact.outcome,
    fact.why,
    fact.finish_reason,
    fact.response_model,
    fact.request_id,
    fact.usage.input AS input_tokens,
    fact.usage.cached AS cached_tokens,
    fact.usage.output AS output_tokens,
    fact.usage.reasoning AS reasoning_tokens,
    coalesce(fact.faults, []) AS faults,
    coalesce(fact.warnings, []) AS warnings,
    bytes,
    context.expected_ids,
    context.product_ids,
    context.batch_products,
    file_path
FROM facts
UNION ALL BY NAME
FROM compacted;

CREATE OR REPLACE VIEW interactions AS
SELECT * EXCLUDE (expected_ids, product_ids, batch_products) FROM logged;
