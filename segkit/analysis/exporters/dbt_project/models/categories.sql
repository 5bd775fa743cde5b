-- A row a category of the run, with its products and their share of all products of the run.
select
    categories.id as taxonomy_id,
    categories.category_name,
    categories.category_key,
    categories.definition,
    count(segments.product_id) as products,
    count(segments.product_id)::numeric
        / nullif((select count(*) from {{ ref('segments') }}), 0) as share
from {{ source('segkit', 'product_taxonomies') }} as categories
left join {{ ref('segments') }} as segments on segments.category_name = categories.category_name
where categories.run_id = '{{ var("run_id") }}'
group by categories.id, categories.category_name, categories.category_key, categories.definition
