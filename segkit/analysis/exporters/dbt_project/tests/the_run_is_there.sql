-- The run that the models show is loaded (`segkit sync`), with as many products as it says.
select wanted.id, runs.total_products, count(products.product_id) as products
from (select '{{ var("run_id") }}'::text as id) as wanted
left join {{ source('segkit', 'segmentation_runs') }} as runs on runs.id = wanted.id
left join {{ source('segkit', 'run_products') }} as products on products.run_id = runs.id
group by wanted.id, runs.id, runs.total_products
having runs.id is null or count(products.product_id) <> runs.total_products
