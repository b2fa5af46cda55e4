-- Each user's stream of frames, and what is known of orders and offers that an older frame must not contradict.

-- One row a user. Its lock orders everything that is appended to the stream: offsets 1, 2, 3 … without a gap.
CREATE TABLE streams (
    user_id     text COLLATE "C" PRIMARY KEY,
    epoch       uuid NOT NULL DEFAULT gen_random_uuid(),  -- a new one tells clients that the offsets start anew
    head        bigint NOT NULL DEFAULT 0,                -- the last offset given
    floor       bigint NOT NULL DEFAULT 0,                -- offsets up to this one are gone
    touched_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (floor >= 0 AND floor <= head)
) WITH (fillfactor = 70);

CREATE TABLE notifications (
    user_id       text COLLATE "C" NOT NULL,
    stream_offset bigint NOT NULL,
    event_id      text NOT NULL,           -- ce_id of the Kafka event
    event         text NOT NULL,           -- name of the frame
    body          json NOT NULL,           -- the frame without its offset
    order_id      text COLLATE "C" NOT NULL,
    offer_id      text COLLATE "C",        -- the offer with which the frame dies; null: it is always sent
    expires_at    timestamptz,             -- when that offer ends by itself
    event_time    timestamptz NOT NULL,    -- ce_time
    traceparent   text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, stream_offset),
    UNIQUE (user_id, event_id, event)      -- one Kafka event never gives a user the same frame twice
);
CREATE INDEX notifications_by_age ON notifications (created_at);

-- Orders as the notifier needs them. A handler locks the row first, so that the two topics' events of one order
-- take turns. Once search_over is true, no offer of the order is live.
CREATE TABLE orders (
    order_id     text COLLATE "C" PRIMARY KEY,
    version      integer NOT NULL DEFAULT 0,   -- the highest orderVersion told to the customer
    search_over  boolean NOT NULL DEFAULT false,
    touched_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX orders_by_age ON orders (touched_at);

-- Offers that have ended, also those whose OffersMade has not come yet.
CREATE TABLE ended_offers (
    offer_id    text COLLATE "C" PRIMARY KEY,
    ended_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ended_offers_by_age ON ended_offers (ended_at);
