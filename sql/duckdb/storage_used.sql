-- What the logs of each stage take on the disk or in S3.
CREATE OR REPLACE VIEW storage_used AS
SELECT
    run_id,
    interaction_type,
    count(*) AS logs,
    sum(bytes)::BIGINT AS bytes,
    count(*) FILTER (WHERE bytes IS NULL) AS unknown_bytes
FROM interactions
GROUP BY ALL;
