CREATE TABLE sinks (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    kind            TEXT NOT NULL,
    target          TEXT NOT NULL,
    format          TEXT NOT NULL,
    ca              TEXT NOT NULL,
    sealed          BYTEA,
    paused          BOOLEAN NOT NULL,
    position        BIGINT NOT NULL,
    delivered       BIGINT NOT NULL,
    failures        BIGINT NOT NULL,
    last_error      TEXT NOT NULL,
    failed_at       BIGINT NOT NULL,
    delivered_at    BIGINT NOT NULL,
    lease_owner     TEXT NOT NULL,
    lease_until     BIGINT NOT NULL,
    event_limit     BIGINT NOT NULL,
    checkpoint      TEXT NOT NULL
);
CREATE UNIQUE INDEX sinks_name ON sinks (organisation_id, name);
CREATE INDEX audit_entries_organisation ON audit_entries (organisation_id, position);
