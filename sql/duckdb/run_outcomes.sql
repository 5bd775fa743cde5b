-- How runs end, by the day they were made (UTC) and by model: the rate is of those that ended.
CREATE OR REPLACE VIEW run_outcomes AS
SELECT
    created_at::DATE AS day,
    model,
    count(*) AS runs,
    count(*) FILTER (WHERE state = 'completed') AS completed,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'running') AS unfinished,
    count(*) FILTER (WHERE state = 'completed') / nullif(count(*) FILTER (WHERE state <> 'running'), 0)
        AS completion_rate
FROM run_states
GROUP BY ALL;
