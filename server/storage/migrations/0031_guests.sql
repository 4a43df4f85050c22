-- Links by which people without an account watch one shell.
CREATE TABLE guests (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    session_id      TEXT NOT NULL,
    host_id         TEXT NOT NULL,
    host_name       TEXT NOT NULL,
    hash            BYTEA,
    inviter         TEXT NOT NULL,
    expires_at      BIGINT NOT NULL,
    joined_at       BIGINT NOT NULL,
    address         TEXT NOT NULL,
    left_at         BIGINT NOT NULL,
    revoked_at      BIGINT NOT NULL
);
CREATE INDEX guests_session ON guests (session_id, id);
CREATE INDEX guests_expires ON guests (expires_at);
