-- A confidence lies between 0 and 1.
select product_id, confidence from {{ ref('segments') }} where confidence not between 0 and 1
