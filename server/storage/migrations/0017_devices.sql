-- Devices that wait to be signed in, or were minutes ago.
CREATE TABLE devices (
    id         TEXT PRIMARY KEY,
    hash       BYTEA,
    code_hash  BYTEA,
    address    TEXT NOT NULL,
    network    TEXT NOT NULL,
    agent      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    decided_at BIGINT NOT NULL,
    approved   BOOLEAN NOT NULL,
    user_id    TEXT NOT NULL,
    sign_in_id TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    proved_at  BIGINT NOT NULL,
    used_at    BIGINT NOT NULL
);
CREATE INDEX devices_code ON devices (code_hash);
