-- Old orders with their truck requests and kept answers: numbers $1 (inclusive) to $2 (exclusive), an hour and more old.
-- Their ids begin with their time, as those of the service do.
WITH given AS MATERIALIZED (
    SELECT (began || '7' || substr(md5('order' || number), 1, 19))::uuid AS order_id,
           (began || '7' || substr(md5('truck' || number), 1, 19))::uuid AS truck_id, 'old-' || number AS customer_id, made
      FROM generate_series($1::bigint, $2::bigint - 1) AS number,
           LATERAL (SELECT statement_timestamp() - interval '4 hours' + number * interval '10 ms' AS made) AS time,
           LATERAL (SELECT lpad(to_hex((extract(epoch FROM made) * 1000)::bigint), 12, '0') AS began) AS milliseconds
), old_order AS (
    INSERT INTO orders (id, customer_id, customer_name, customer_phone, pickup, drop_place, distance_km, total_amount,
                        total_trucks, status, searching, search_end, version, timer_version, expires_at, created_at,
                        updated_at)
    SELECT order_id, customer_id, 'Customer 1', '+910000000000', '{"latitude":28.5355,"longitude":77.391,"address":"Noida"}',
           '{"latitude":28.6139,"longitude":77.209,"address":"Delhi"}', 25, 500, 1, 'expired', false, 'time', 2, 1,
           made + interval '60 seconds', made, made + interval '60 seconds' FROM given
), old_truck AS (
    INSERT INTO truck_requests (id, order_id, request_number, vehicle_type, vehicle_subtype, price_per_truck, status,
                                created_at, updated_at)
    SELECT truck_id, order_id, 1, 'TRUCK', 'TATA_ACE', 500, 'expired', made, made FROM given
)
INSERT INTO idempotency_records (customer_id, endpoint, key, fingerprint, status, body, order_id, created_at)
SELECT customer_id, 'POST /orders', '4f9c1a2b-' || customer_id, sha256(customer_id::bytea), 201,
       convert_to(repeat('x', 1153), 'UTF8'), order_id, made FROM given
