-- Attempts beyond the first at the same question, each with what was wrong before it and what came of it.
CREATE OR REPLACE VIEW retries AS
SELECT
    run_id,
    interaction_type,
    batch_id,
    part,
    attempt,
    lag(coalesce(why, array_to_string(faults, '; '))) OVER tries AS faults_before,
    outcome,
    cost_usd,
    file_path
FROM interactions
WINDOW tries AS (
    PARTITION BY run_id, interaction_type, batch_id, part
    ORDER BY attempt, created_at, outcome = 'valid', file_path
)
QUALIFY row_number() OVER tries > 1;
