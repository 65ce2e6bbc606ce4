-- What an operator looks at: figures, and rows in order, page by page, without reading the whole table.

-- The oldest event that waits, and those that wait in the order in which they happened.
CREATE INDEX outbox_event_pending ON outbox_event (zammad, happened_ms, event_id) WHERE state = 'pending';

-- How many are over, and the newest of them, for each Zammad.
DROP INDEX outbox_event_settled;
CREATE INDEX outbox_event_over ON outbox_event (state, zammad, settled_ms, event_id) WHERE state <> 'pending';
