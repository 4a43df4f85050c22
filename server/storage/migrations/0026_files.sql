-- Files on their way to and from hosts.
CREATE TABLE file_transfers (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    host_id         TEXT NOT NULL,
    host_name       TEXT NOT NULL,
    state           TEXT NOT NULL,
    task            TEXT NOT NULL,
    actor           TEXT NOT NULL,
    actor_id        TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    error_code      TEXT NOT NULL,
    error           TEXT NOT NULL,
    hint            TEXT NOT NULL,
    ended_at        BIGINT NOT NULL,
    attempt         BIGINT NOT NULL,
    order_id        TEXT NOT NULL,
    not_after       BIGINT NOT NULL,
    sent            BOOLEAN NOT NULL,
    replica         TEXT NOT NULL
);
CREATE INDEX file_transfers_state ON file_transfers (state, ended_at);
CREATE INDEX file_transfers_order ON file_transfers (order_id);
CREATE UNIQUE INDEX file_transfers_request ON file_transfers (actor_id, request_id) WHERE request_id <> '';
