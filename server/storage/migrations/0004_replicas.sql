-- Which replica holds a host's link, written when it moves. Empty in a control plane of one replica.
ALTER TABLE hosts ADD COLUMN link TEXT NOT NULL DEFAULT '{}';

-- Replicas of the control plane. beat rises for as long as one lives; whether it has its lease is judged by each of the
-- others by its own clock. instance tells lives of one replica apart.
CREATE TABLE replicas (
    id         TEXT PRIMARY KEY,
    instance   TEXT NOT NULL,
    version    TEXT NOT NULL,
    address    TEXT NOT NULL,
    routes     TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    beat       BIGINT NOT NULL,
    links      BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    leaving    BOOLEAN NOT NULL
);

-- Keysets as the anchor signed them: public, and worth nothing without that signature.
CREATE TABLE keysets (
    version BIGINT PRIMARY KEY,
    signed  TEXT NOT NULL,
    at      BIGINT NOT NULL
);
