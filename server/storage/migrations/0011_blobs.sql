-- Files of releases, where several replicas share them. A file is a row of blobs, its content the chunks of its version:
-- a file is replaced by pointing at another version, and chunks that nothing points at are swept later.
CREATE TABLE blobs (
    key      TEXT PRIMARY KEY,
    version  TEXT NOT NULL,
    size     BIGINT NOT NULL,
    modified BIGINT NOT NULL
);
CREATE TABLE blob_chunks (
    version TEXT NOT NULL,
    number  BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    data    BYTEA NOT NULL,
    PRIMARY KEY (version, number)
);

-- What one replica at a time does, and which one does it.
CREATE TABLE leases (
    name  TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    until BIGINT NOT NULL
);
