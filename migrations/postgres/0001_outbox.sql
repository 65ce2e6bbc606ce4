-- The outbox: events that listeners have accepted, each once, and which node delivers them.
-- Plain SQL, as PostgreSQL-compatible distributed engines understand it too. Never edited once released.

-- One call at one Zammad: its events go one after the other, from one node at a time.
CREATE TABLE outbox_line (
    zammad      text        NOT NULL,
    call_id     text        NOT NULL,
    -- Events that are neither delivered nor given up.
    waiting     bigint      NOT NULL CHECK (waiting >= 0),
    began       timestamptz NOT NULL DEFAULT now(),
    -- The node that has it, until when by this server's clock, and how often it has changed hands.
    owner       text,
    lease_until timestamptz,
    fence       bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (zammad, call_id)
);

CREATE INDEX outbox_line_waiting ON outbox_line (zammad, began) WHERE waiting > 0;

CREATE TABLE outbox_event (
    -- The same wherever and however often the same thing is seen: two listeners make one row.
    event_id    text        NOT NULL PRIMARY KEY,
    zammad      text        NOT NULL,
    call_id     text        NOT NULL,
    -- The order within a call, whoever brought them: 0 newCall, 1 answer, 2 hangup; then when it happened; then its
    -- place in the store that it came from.
    step        smallint    NOT NULL CHECK (step BETWEEN 0 AND 2),
    happened_ms bigint      NOT NULL,
    place       bigint      NOT NULL,
    -- JSON, as the local store writes it.
    payload     text        NOT NULL,
    state       text        NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
    -- A request that must not be blindly repeated was begun then.
    attempt_ms  bigint,
    held        boolean     NOT NULL,
    restored    boolean     NOT NULL,
    shipped_by  text        NOT NULL,
    shipped_at  timestamptz NOT NULL DEFAULT now(),
    settled_by  text,
    settled_ms  bigint,
    note        text
);

CREATE INDEX outbox_event_line ON outbox_event (zammad, call_id);
CREATE INDEX outbox_event_settled ON outbox_event (state, settled_ms) WHERE state <> 'pending';

-- Who takes part, and how each says it is.
CREATE TABLE outbox_node (
    node    text        NOT NULL PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    -- JSON.
    status  text        NOT NULL
);
