-- One row a run: what it was asked, and how it stands as its own files tell it. A run whose process died before it
-- could say so still says `running` here; `segkit runs` looks whether anybody works on it.
CREATE OR REPLACE VIEW run_states AS
SELECT
    run_id,
    TRY_CAST(run ->> 'created_at' AS TIMESTAMPTZ) AS created_at,
    run ->> '$.parameters.model' AS model,
    run ->> '$.parameters.prompts' AS prompts,
    run ->> '$.parameters.category' AS category,
    TRY_CAST(run ->> '$.input.products' AS BIGINT) AS products,
    coalesce(status ->> 'state', 'running') AS state,
    nullif(status ->> 'reason', '') AS reason,
    TRY_CAST(status ->> '$.summary.seconds' AS DOUBLE) AS seconds,
    TRY_CAST(status ->> '$.summary.categories' AS BIGINT) AS categories,
    TRY_CAST(status ->> 'updated_at' AS TIMESTAMPTZ) AS updated_at
FROM run_documents
WHERE run IS NOT NULL;
