-- Identity providers, and who people are there.
CREATE TABLE providers (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    issuer          TEXT NOT NULL,
    client_id       TEXT NOT NULL,
    sealed          BYTEA,
    ca              TEXT NOT NULL,
    scopes          TEXT NOT NULL,
    disabled        BOOLEAN NOT NULL,
    organisation_id TEXT NOT NULL,
    create_users    BOOLEAN NOT NULL,
    domains         TEXT NOT NULL,
    groups_claim    TEXT NOT NULL,
    groups_map      TEXT NOT NULL,
    trust_mfa       BOOLEAN NOT NULL,
    mfa_values      TEXT NOT NULL
);
CREATE UNIQUE INDEX providers_name ON providers (name);

CREATE TABLE identities (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    labels       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    revision     BIGINT NOT NULL,
    provider_id  TEXT NOT NULL,
    issuer       TEXT NOT NULL,
    subject      TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    email        TEXT NOT NULL,
    last_used_at BIGINT NOT NULL
);
CREATE INDEX identities_provider ON identities (provider_id, id);
CREATE INDEX identities_user ON identities (user_id);
