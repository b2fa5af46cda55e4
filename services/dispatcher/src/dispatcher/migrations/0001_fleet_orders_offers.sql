-- The dispatcher's slice: transporters and captains, its view of orders, and the offers.

CREATE TABLE transporters (
    transporter_id  text PRIMARY KEY CHECK (length(transporter_id) BETWEEN 1 AND 64),
    name            text NOT NULL,
    phone           text,
    active          boolean NOT NULL,
    verified        boolean NOT NULL DEFAULT false,
    version         bigint NOT NULL DEFAULT 1,          -- orders what the cache is told
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- No foreign key to transporters: a captain may name his before it has registered; he gets no offers until it has.
CREATE TABLE captains (
    captain_id      text PRIMARY KEY CHECK (length(captain_id) BETWEEN 1 AND 64),
    transporter_id  text NOT NULL,
    name            text NOT NULL,
    phone           text,
    vehicle_type    text NOT NULL,
    vehicle_subtype text NOT NULL,
    vehicle_number  text NOT NULL,
    confirmed       boolean NOT NULL DEFAULT false,     -- by this transporter
    available       boolean NOT NULL DEFAULT false,
    busy            boolean NOT NULL DEFAULT false,     -- as last announced; the truth is in truck_requests
    idle_since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    version         bigint NOT NULL DEFAULT 1,          -- one more with each state announced
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX captains_of_transporter ON captains (transporter_id, captain_id);

-- The view of orders. An event that overtook OrderCreated leaves a row without a plan.
CREATE TABLE orders (
    order_id        text PRIMARY KEY,
    customer_id     text NOT NULL,
    version         integer NOT NULL,                   -- of the newest event seen
    status          text NOT NULL,
    searching       boolean NOT NULL,
    pickup          jsonb,
    drop_place      jsonb,
    distance_km     double precision,
    created_at      timestamptz,                        -- of the order, by order-api's database
    expires_at      timestamptz,
    wave            smallint NOT NULL DEFAULT 0,        -- waves made
    timer_version   integer NOT NULL DEFAULT 0,         -- schedulings of dispatch-wave:<order id>
    exhausted       boolean NOT NULL DEFAULT false,
    seen_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX orders_past_keeping ON orders (updated_at) WHERE NOT searching;

-- Each row carries the version of the order event that last changed it, so an older one never undoes a newer one,
-- and a release that came before its assignment holds. A captain is busy while he holds a row that is taken.
CREATE TABLE truck_requests (
    truck_request_id text PRIMARY KEY,
    order_id        text NOT NULL REFERENCES orders ON DELETE CASCADE,
    vehicle_type    text,                               -- NULL: nothing told of it yet but its release
    vehicle_subtype text,
    price_per_truck integer,
    state           text NOT NULL CHECK (state IN ('open', 'taken', 'closed')),
    captain_id      text,                               -- the holder while taken, the last one after
    version         integer NOT NULL
);
CREATE INDEX truck_requests_of_order ON truck_requests (order_id);
CREATE INDEX truck_requests_running ON truck_requests (captain_id) WHERE state = 'taken';

CREATE TABLE offers (
    offer_id        text PRIMARY KEY,
    order_id        text NOT NULL REFERENCES orders ON DELETE CASCADE,
    captain_id      text NOT NULL,
    transporter_id  text NOT NULL,
    vehicle_type    text NOT NULL,
    vehicle_subtype text NOT NULL,
    vehicle_number  text NOT NULL,
    wave            smallint NOT NULL,
    distance_m      integer NOT NULL CHECK (distance_m >= 0),
    price_per_truck integer NOT NULL,
    open_trucks     integer NOT NULL,
    status          text NOT NULL DEFAULT 'live'
                    CHECK (status IN ('live', 'accepted', 'declined', 'withdrawn', 'expired')),
    reason          text,                               -- why it ended, or why he declined
    made_at         timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    CONSTRAINT one_offer_of_an_order_to_a_captain UNIQUE (order_id, captain_id)
);
CREATE INDEX offers_live_of_captain ON offers (captain_id) WHERE status = 'live';

-- Each wave and each replacement, explained. Bounded per order.
CREATE TABLE match_rounds (
    order_id        text NOT NULL REFERENCES orders ON DELETE CASCADE,
    round           integer NOT NULL,
    wave            smallint NOT NULL,
    cause           text NOT NULL,                      -- wave, declined, busy, released
    radius_m        integer NOT NULL,
    at              timestamptz NOT NULL,
    report          jsonb NOT NULL,
    PRIMARY KEY (order_id, round)
);
