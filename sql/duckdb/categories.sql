-- One row a category of each run that has results. The key is the one that the category keeps in the runs that are made
-- from its run; a run that is older than keys has none. The number is that of the category in the results of the run.
CREATE OR REPLACE VIEW categories AS
SELECT run_id, key AS category_key, category_name, definition, product_count, id AS number
FROM taxonomy_rows;
