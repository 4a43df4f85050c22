-- Links by which users come in for the first time.
CREATE TABLE invitations (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    user_id         TEXT NOT NULL,
    hash            BYTEA,
    created_by      TEXT NOT NULL,
    expires_at      BIGINT NOT NULL,
    used_at         BIGINT NOT NULL,
    used_for        TEXT NOT NULL,
    revoked_at      BIGINT NOT NULL
);
CREATE INDEX invitations_user ON invitations (user_id, id);
