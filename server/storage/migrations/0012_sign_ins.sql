-- Who is signed in, and was of late.
CREATE TABLE sign_ins (
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
    method          TEXT NOT NULL,
    via             TEXT NOT NULL,
    key_id          TEXT NOT NULL,
    address         TEXT NOT NULL,
    agent           TEXT NOT NULL,
    hash            BYTEA,
    proved_at       BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    idle            BIGINT NOT NULL,
    last_used_at    BIGINT NOT NULL,
    mfa_at          BIGINT NOT NULL,
    ended_at        BIGINT NOT NULL,
    ended_for       TEXT NOT NULL
);
CREATE INDEX sign_ins_user ON sign_ins (user_id, id);
CREATE INDEX sign_ins_expires ON sign_ins (expires_at);
