-- Entries that a sink's receiver refused while it took others.
CREATE TABLE dead_letters (
    id       TEXT PRIMARY KEY,
    sink_id  TEXT NOT NULL,
    position BIGINT NOT NULL,
    entry_id TEXT NOT NULL,
    action   TEXT NOT NULL,
    reason   TEXT NOT NULL,
    tries    BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    resend   BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX dead_letters_sink ON dead_letters (sink_id, position);
ALTER TABLE sinks ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
