-- Locks: who, which role or which hosts are kept out.
CREATE TABLE locks (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    target_kind     TEXT NOT NULL,
    target_id       TEXT NOT NULL,
    target_name     TEXT NOT NULL,
    hosts           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    ticket          TEXT NOT NULL,
    not_after       BIGINT NOT NULL,
    state           TEXT NOT NULL,
    created_by      TEXT NOT NULL,
    creator         TEXT NOT NULL,
    closed_at       BIGINT NOT NULL,
    closed_by       TEXT NOT NULL,
    comment         TEXT NOT NULL
);
CREATE INDEX locks_state ON locks (state, id);
