-- One row an event of a run or of the service: what happened when, to which run, by which process, and all it says.
CREATE OR REPLACE VIEW events AS
WITH parsed AS (
    SELECT run_id, TRY_CAST(line AS JSON) AS fact FROM event_lines
)
SELECT
    TRY_CAST(fact ->> 'time' AS TIMESTAMPTZ) AS created_at,
    CASE run_id WHEN '' THEN 'service' ELSE 'run' END AS source,
    coalesce(nullif(run_id, ''), fact ->> 'run_id') AS run_id,
    fact ->> 'event' AS event,
    TRY_CAST(fact ->> 'pid' AS BIGINT) AS pid,
    fact ->> 'owner' AS owner,
    fact
FROM parsed
WHERE fact IS NOT NULL;
