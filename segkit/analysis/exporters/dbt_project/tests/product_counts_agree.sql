-- The number of products that a category states is the number of products that are in it.
select categories.category_name, stated.product_count, categories.products
from {{ ref('categories') }} as categories
join {{ source('segkit', 'product_taxonomies') }} as stated on stated.id = categories.taxonomy_id
where stated.product_count <> categories.products
