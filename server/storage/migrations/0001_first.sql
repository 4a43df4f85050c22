-- One text for both databases. TEXT compares byte by byte in both: PostgreSQL gets COLLATE "C" for it.
-- Times are microseconds since 1970 in UTC, 0 where there is none; lengths of time are microseconds.
-- What is only ever read whole is JSON in TEXT. Columns that end in _id name a row by id; the tree alone is held together
-- by foreign keys: tombstones of hosts, spent tokens and the audit log outlive the place they belonged to.

CREATE TABLE positions (
    single BIGINT PRIMARY KEY CHECK (single = 1),
    feed   BIGINT NOT NULL,
    audit  BIGINT NOT NULL
);
INSERT INTO positions (single, feed, audit) VALUES (1, 0, 0);

-- The last batch of each writer, so that a writer which lost its connection during COMMIT can find out what became of it.
CREATE TABLE writers (
    id    TEXT PRIMARY KEY,
    batch BIGINT NOT NULL,
    at    BIGINT NOT NULL
);

CREATE TABLE deployment (
    id                TEXT PRIMARY KEY,
    epoch             BIGINT NOT NULL,
    created_at        BIGINT NOT NULL,
    bootstrap_hash    BYTEA,
    bootstrap_used_at BIGINT NOT NULL,
    epoch_began       BIGINT NOT NULL
);

CREATE TABLE changes (
    position        BIGINT PRIMARY KEY,
    kind            TEXT NOT NULL,
    id              TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    deleted         BOOLEAN NOT NULL,
    at              BIGINT NOT NULL
);

CREATE TABLE organisations (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    labels      TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    revision    BIGINT NOT NULL,
    description TEXT NOT NULL
);
CREATE UNIQUE INDEX organisations_name ON organisations (name);

CREATE TABLE projects (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL REFERENCES organisations (id),
    description     TEXT NOT NULL
);
CREATE UNIQUE INDEX projects_name ON projects (organisation_id, name);
CREATE INDEX projects_by_name ON projects (name, id);

CREATE TABLE workspaces (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL REFERENCES organisations (id),
    project_id      TEXT NOT NULL REFERENCES projects (id),
    description     TEXT NOT NULL,
    token_policy    TEXT NOT NULL
);
CREATE UNIQUE INDEX workspaces_name ON workspaces (project_id, name);
CREATE INDEX workspaces_organisation ON workspaces (organisation_id);
CREATE INDEX workspaces_by_name ON workspaces (name, id);

CREATE TABLE tokens (
    id                TEXT PRIMARY KEY,
    name              TEXT NOT NULL,
    labels            TEXT NOT NULL,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL,
    revision          BIGINT NOT NULL,
    organisation_id   TEXT NOT NULL,
    project_id        TEXT NOT NULL,
    workspace_id      TEXT NOT NULL,
    description       TEXT NOT NULL,
    hash              BYTEA,
    expires_at        BIGINT NOT NULL,
    max_uses          BIGINT NOT NULL,
    uses              BIGINT NOT NULL,
    allowed_networks  TEXT NOT NULL,
    host_name_pattern TEXT NOT NULL,
    requires_approval BOOLEAN NOT NULL,
    host_labels       TEXT NOT NULL,
    channel           TEXT NOT NULL,
    ephemeral_ttl     BIGINT NOT NULL,
    honeytoken        BOOLEAN NOT NULL,
    created_by        TEXT NOT NULL,
    last_used_at      BIGINT NOT NULL,
    last_address      TEXT NOT NULL,
    networks          TEXT NOT NULL,
    signals           TEXT NOT NULL,
    successor_id      TEXT NOT NULL,
    revoked_at        BIGINT NOT NULL,
    revoked_by        TEXT NOT NULL,
    reason            TEXT NOT NULL
);
CREATE INDEX tokens_workspace ON tokens (workspace_id, id);

CREATE TABLE hosts (
    id                TEXT PRIMARY KEY,
    name              TEXT NOT NULL,
    labels            TEXT NOT NULL,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL,
    revision          BIGINT NOT NULL,
    organisation_id   TEXT NOT NULL,
    project_id        TEXT NOT NULL,
    workspace_id      TEXT NOT NULL,
    lifecycle         TEXT NOT NULL,
    lifecycle_reason  TEXT NOT NULL,
    converged         BOOLEAN NOT NULL,
    online            BOOLEAN NOT NULL,
    updating          TEXT NOT NULL,
    updating_until    BIGINT NOT NULL,
    sections          TEXT NOT NULL,
    modules           TEXT NOT NULL,
    state             TEXT NOT NULL,
    state_reason      TEXT NOT NULL,
    state_since       BIGINT NOT NULL,
    forced_labels     TEXT NOT NULL,
    key               BYTEA,
    next_key          BYTEA,
    key_history       TEXT NOT NULL,
    generation        BIGINT NOT NULL,
    token_id          TEXT NOT NULL,
    enrolled_at       BIGINT NOT NULL,
    enrolled_from     TEXT NOT NULL,
    channel           TEXT NOT NULL,
    ephemeral_ttl     BIGINT NOT NULL,
    settings_revision BIGINT NOT NULL,
    agent_version     TEXT NOT NULL,
    online_since      BIGINT NOT NULL,
    offline_since     BIGINT NOT NULL,
    last_seen         BIGINT NOT NULL,
    inventory         TEXT NOT NULL,
    ceiling           TEXT NOT NULL,
    provider          TEXT NOT NULL,
    address           TEXT NOT NULL
);
-- The name of a removed host is free again.
CREATE UNIQUE INDEX hosts_name ON hosts (workspace_id, name) WHERE lifecycle <> 'removed';
CREATE INDEX hosts_by_name ON hosts (name, id);
CREATE INDEX hosts_state ON hosts (state, id);
CREATE INDEX hosts_token ON hosts (token_id);

CREATE TABLE host_labels (
    host_id TEXT NOT NULL REFERENCES hosts (id),
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (host_id, key)
);
CREATE INDEX host_labels_value ON host_labels (key, value, host_id);

-- Every identity key that a host has, is offered or ever had, by its SHA-256: a key belongs to one host for ever.
CREATE TABLE host_keys (
    hash    BYTEA PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES hosts (id),
    which   TEXT NOT NULL
);
CREATE INDEX host_keys_host ON host_keys (host_id);

CREATE TABLE settings (
    id         TEXT PRIMARY KEY,
    updated_at BIGINT NOT NULL,
    revision   BIGINT NOT NULL,
    settings   TEXT NOT NULL
);

CREATE TABLE operations (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    kind            TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    target          TEXT NOT NULL,
    state           TEXT NOT NULL,
    progress        DOUBLE PRECISION NOT NULL,
    steps           TEXT NOT NULL,
    error_code      TEXT NOT NULL,
    error           TEXT NOT NULL,
    input           BYTEA,
    actor           TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    ended_at        BIGINT NOT NULL,
    lease_owner     TEXT NOT NULL,
    lease_until     BIGINT NOT NULL,
    attempt         BIGINT NOT NULL
);
CREATE UNIQUE INDEX operations_request ON operations (actor, request_id) WHERE request_id <> '';
CREATE INDEX operations_target ON operations (target, id);
CREATE INDEX operations_workspace ON operations (workspace_id, id);
CREATE INDEX operations_waiting ON operations (id) WHERE state IN ('pending', 'running');

CREATE TABLE api_keys (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    description     TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    permissions     TEXT NOT NULL,
    hash            BYTEA,
    expires_at      BIGINT NOT NULL,
    created_by      TEXT NOT NULL,
    last_used_at    BIGINT NOT NULL,
    revoked_at      BIGINT NOT NULL
);

CREATE TABLE releases (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    labels       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    revision     BIGINT NOT NULL,
    program      TEXT NOT NULL,
    version      TEXT NOT NULL,
    channel      TEXT NOT NULL,
    published_at BIGINT NOT NULL,
    targets      TEXT NOT NULL
);
CREATE UNIQUE INDEX releases_version ON releases (program, version);

CREATE TABLE audit_entries (
    position        BIGINT PRIMARY KEY,
    id              TEXT NOT NULL,
    at              BIGINT NOT NULL,
    actor_kind      TEXT NOT NULL,
    actor_id        TEXT NOT NULL,
    actor_name      TEXT NOT NULL,
    actor_address   TEXT NOT NULL,
    action          TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    target          TEXT NOT NULL,
    name            TEXT NOT NULL,
    outcome         TEXT NOT NULL,
    reason          TEXT NOT NULL,
    ticket          TEXT NOT NULL,
    before          TEXT NOT NULL,
    after           TEXT NOT NULL,
    decision        TEXT NOT NULL,
    request_id      TEXT NOT NULL
);
CREATE INDEX audit_entries_target ON audit_entries (target, position);
CREATE INDEX audit_entries_actor ON audit_entries (actor_id, position);
CREATE INDEX audit_entries_workspace ON audit_entries (workspace_id, position);
