-- Passkeys of people, and the ceremonies that were used up.
CREATE TABLE passkeys (
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
    domain          TEXT NOT NULL,
    credential_id   BYTEA NOT NULL,
    public_key      BYTEA NOT NULL,
    sign_count      BIGINT NOT NULL,
    aaguid          BYTEA,
    transports      TEXT NOT NULL,
    backup_eligible BOOLEAN NOT NULL,
    backed_up       BOOLEAN NOT NULL,
    last_used_at    BIGINT NOT NULL
);
CREATE UNIQUE INDEX passkeys_credential ON passkeys (credential_id);
CREATE INDEX passkeys_user ON passkeys (user_id, id);
CREATE TABLE ceremonies (
    id         TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX ceremonies_expires ON ceremonies (expires_at);
-- A device may ask for a fresh passkey instead of a sign-in, and a sign-in that it gets knows of its approver's second factor.
ALTER TABLE devices ADD COLUMN step_up TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN mfa_at BIGINT NOT NULL DEFAULT 0;
-- Codes that were typed, by who typed them.
CREATE TABLE code_guesses (
    who   TEXT PRIMARY KEY,
    since BIGINT NOT NULL,
    wrong BIGINT NOT NULL
);
