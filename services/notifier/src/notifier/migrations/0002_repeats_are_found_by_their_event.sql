-- Whether an event's frames were added before is now one look for all its users: the event comes first, and it is new as
-- a rule. With the user first, a plan that was made while the table was empty walked the whole index for each event.
-- Ids of events rise with time, so the new entries of an event stand side by side.
ALTER TABLE notifications ADD CONSTRAINT notifications_by_event UNIQUE (event_id, user_id, event);
ALTER TABLE notifications DROP CONSTRAINT notifications_user_id_event_id_event_key;
