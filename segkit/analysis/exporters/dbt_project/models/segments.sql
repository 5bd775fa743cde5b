-- A row a product of the run: its category at the end, and how sure the model was of it.
select
    products.product_id,
    keys.source_id,
    listed.title,
    categories.category_name,
    categories.category_key,
    first_categories.category_name as first_category_name,
    case
        when refined.taxonomy_id <> segments.taxonomy_id then moves.confidence
        else segments.confidence
    end as confidence,
    coalesce(refined.taxonomy_id <> segments.taxonomy_id, false) as is_moved
from {{ source('segkit', 'run_products') }} as products
left join {{ source('segkit', 'amazon_products') }} as listed on listed.id = products.product_id
left join {{ source('segkit', 'product_keys') }} as keys on keys.product_id = products.product_id
left join {{ source('segkit', 'product_segments') }} as segments
    on segments.run_id = products.run_id and segments.product_id = products.product_id
left join {{ source('segkit', 'refined_product_segments') }} as refined
    on refined.run_id = products.run_id and refined.product_id = products.product_id
left join {{ source('segkit', 'product_moves') }} as moves
    on moves.run_id = products.run_id and moves.product_id = products.product_id
left join {{ source('segkit', 'product_taxonomies') }} as categories
    on categories.id = coalesce(refined.taxonomy_id, segments.taxonomy_id)
left join {{ source('segkit', 'product_taxonomies') }} as first_categories
    on first_categories.id = segments.taxonomy_id
where products.run_id = '{{ var("run_id") }}'
