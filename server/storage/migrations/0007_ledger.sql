-- The Merkle tree over the audit log: its state, and its hashes in tiles of up to 256.
CREATE TABLE audit_logs (
    number      BIGINT PRIMARY KEY,
    origin      TEXT NOT NULL,
    began       BIGINT NOT NULL,
    size        BIGINT NOT NULL,
    root        BYTEA NOT NULL,
    checkpoint  TEXT NOT NULL,
    signed      BIGINT NOT NULL,
    signed_at   BIGINT NOT NULL,
    previous    TEXT NOT NULL,
    pruned      BIGINT NOT NULL,
    lease_owner TEXT NOT NULL,
    lease_until BIGINT NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE TABLE audit_tiles (
    log    BIGINT NOT NULL,
    level  BIGINT NOT NULL,
    number BIGINT NOT NULL,
    hashes BYTEA NOT NULL,
    PRIMARY KEY (log, level, number)
);
CREATE INDEX audit_entries_id ON audit_entries (id);
