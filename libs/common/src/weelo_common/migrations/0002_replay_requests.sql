-- An operator asks for the replay of a parked key by a mark on its row; the service that parked it does the replay with
-- its own handlers, and leaves behind why where it failed again.
ALTER TABLE parked_key
    ADD COLUMN replay_asked_at timestamptz,
    ADD COLUMN replay_error    text;
