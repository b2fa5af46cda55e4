-- order-api: orders, their truck requests, the kept answers of creates, and what the dispatch tells of an order.

CREATE TABLE orders (
    id              uuid PRIMARY KEY,
    customer_id     text NOT NULL,
    customer_name   text NOT NULL,
    customer_phone  text NOT NULL,
    pickup          jsonb NOT NULL,
    drop_place      jsonb NOT NULL,             -- "drop" on the wire; a word of SQL here
    distance_km     double precision NOT NULL,
    goods_type      text,
    cargo_weight_kg double precision,
    total_amount    bigint NOT NULL,            -- rupees
    total_trucks    integer NOT NULL CHECK (total_trucks BETWEEN 1 AND 50),
    trucks_filled   integer NOT NULL DEFAULT 0 CHECK (trucks_filled BETWEEN 0 AND total_trucks),
    status          text NOT NULL CHECK (status IN ('active', 'partially_filled', 'fully_filled', 'in_progress',
                                                    'completed', 'cancelled', 'expired')),
    searching       boolean NOT NULL,
    search_end      text CHECK (search_end IN ('time', 'filled', 'cancelled')),
    version         integer NOT NULL CHECK (version >= 1),
    timer_version   integer NOT NULL CHECK (timer_version >= 1),
    expires_at      timestamptz NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    cancelled_at    timestamptz,
    cancel_kind     text CHECK (cancel_kind IN ('customer', 'no_truck_left')),
    cancel_text     text,
    CHECK (searching = (search_end IS NULL)),
    CHECK ((cancelled_at IS NULL) = (cancel_kind IS NULL)),
    CHECK ((status = 'cancelled') = (cancel_kind IS NOT NULL))
) WITH (fillfactor = 85);

-- The promise: a customer has at most one order that is searching.
CREATE UNIQUE INDEX orders_one_searching_per_customer ON orders (customer_id) WHERE searching;
CREATE INDEX orders_newest_first ON orders (customer_id, created_at DESC, id DESC);
CREATE INDEX orders_overdue ON orders (expires_at) WHERE searching;

CREATE TABLE truck_requests (
    id                  uuid PRIMARY KEY,
    order_id            uuid NOT NULL REFERENCES orders (id),
    request_number      integer NOT NULL,
    vehicle_type        text NOT NULL,
    vehicle_subtype     text NOT NULL,
    price_per_truck     integer NOT NULL,       -- rupees
    status              text NOT NULL CHECK (status IN ('searching', 'assigned', 'in_progress', 'completed',
                                                        'expired', 'cancelled')),
    captain_id          text,
    transporter_id      text,
    vehicle_number      text,
    offer_id            text,
    assigned_at         timestamptz,
    released_captain_id text,
    release_reason      text,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    UNIQUE (order_id, request_number),
    CHECK (status NOT IN ('assigned', 'in_progress', 'completed') OR captain_id IS NOT NULL),
    CHECK (status NOT IN ('searching', 'expired') OR captain_id IS NULL)
) WITH (fillfactor = 85);

-- The promise: a captain has at most one truck request that is assigned or in progress.
CREATE UNIQUE INDEX truck_requests_one_running_per_captain ON truck_requests (captain_id)
    WHERE status IN ('assigned', 'in_progress');
CREATE INDEX truck_requests_of_captain ON truck_requests (captain_id, assigned_at DESC, id DESC)
    WHERE captain_id IS NOT NULL;

-- The answer of a create, byte for byte, so that a retry gets the same. Written with the order or not at all.
CREATE TABLE idempotency_records (
    customer_id text NOT NULL,
    endpoint    text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,                 -- SHA-256 of the canonical JSON of what was understood
    status      smallint NOT NULL,
    body        bytea NOT NULL,
    order_id    uuid NOT NULL UNIQUE REFERENCES orders (id),
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (customer_id, endpoint, key)
);
CREATE INDEX idempotency_records_by_age ON idempotency_records (created_at);

-- What dispatch.offers.v1 tells of an order; only for GET …/status.
CREATE TABLE dispatch_progress (
    order_id    uuid PRIMARY KEY REFERENCES orders (id),
    state       text NOT NULL CHECK (state IN ('dispatching', 'exhausted')),
    attempts    integer NOT NULL,               -- waves so far
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE notified_transporters (
    order_id        uuid NOT NULL REFERENCES orders (id),
    transporter_id  text NOT NULL,
    PRIMARY KEY (order_id, transporter_id)
);
