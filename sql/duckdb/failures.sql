-- Attempts that gave no valid answer, and why: faults of the answer, or what the endpoint said instead of one.
CREATE OR REPLACE VIEW failures AS
SELECT
    run_id,
    interaction_type,
    batch_id,
    part,
    attempt,
    outcome,
    coalesce(why, array_to_string(faults, '; ')) AS why,
    money,
    cost_usd,
    finish_reason,
    file_path
FROM interactions
WHERE outcome IS DISTINCT FROM 'valid';
