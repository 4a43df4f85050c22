-- Who may do what: users and service accounts, groups, roles, bindings. API keys get owners.

CREATE TABLE principals (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    kind            TEXT NOT NULL,
    email           TEXT NOT NULL,
    description     TEXT NOT NULL,
    disabled_at     BIGINT NOT NULL
);
CREATE UNIQUE INDEX principals_name ON principals (organisation_id, kind, name);
CREATE INDEX principals_by_name ON principals (name, id);

CREATE TABLE groups (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    description     TEXT NOT NULL,
    members         TEXT NOT NULL
);
CREATE UNIQUE INDEX groups_name ON groups (organisation_id, name);
CREATE INDEX groups_by_name ON groups (name, id);

CREATE TABLE roles (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    description     TEXT NOT NULL,
    permissions     TEXT NOT NULL
);
CREATE UNIQUE INDEX roles_name ON roles (organisation_id, name);
CREATE INDEX roles_by_name ON roles (name, id);

CREATE TABLE bindings (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    description     TEXT NOT NULL,
    subject_kind    TEXT NOT NULL,
    subject_id      TEXT NOT NULL,
    role_id         TEXT NOT NULL,
    hosts           TEXT NOT NULL,
    mfa_within      BIGINT NOT NULL,
    addresses       TEXT NOT NULL,
    ticket          TEXT NOT NULL,
    deny            BOOLEAN NOT NULL,
    not_before      BIGINT NOT NULL,
    not_after       BIGINT NOT NULL,
    created_by      TEXT NOT NULL
);
CREATE INDEX bindings_subject ON bindings (subject_id, id);
CREATE INDEX bindings_role ON bindings (role_id, id);
CREATE INDEX bindings_place ON bindings (organisation_id, project_id, workspace_id);

ALTER TABLE api_keys ADD COLUMN owner_id TEXT NOT NULL DEFAULT '';
CREATE INDEX api_keys_owner ON api_keys (owner_id, id);

-- Keys that exist go on working: each gets a service account of its own, which holds what the key held, where it held it.
INSERT INTO principals (id, name, labels, created_at, updated_at, revision, organisation_id, project_id, workspace_id, kind, email, description, disabled_at)
SELECT 'sa_' || substr(id, 5), 'key-' || substr(id, 5), '{}', created_at, created_at, revision, organisation_id, '', '', 'service_account', '',
    'made for the API key ' || name || ' when keys got owners', 0
FROM api_keys;

INSERT INTO roles (id, name, labels, created_at, updated_at, revision, organisation_id, project_id, workspace_id, description, permissions)
SELECT 'rol_' || substr(id, 5), 'key-' || substr(id, 5), '{}', created_at, created_at, revision, organisation_id, '', '',
    'what the API key ' || name || ' held when keys got owners', permissions
FROM api_keys WHERE permissions <> '["*"]';

INSERT INTO bindings (id, name, labels, created_at, updated_at, revision, organisation_id, project_id, workspace_id, description, subject_kind, subject_id,
    role_id, hosts, mfa_within, addresses, ticket, deny, not_before, not_after, created_by)
SELECT 'bnd_' || substr(id, 5), '', '{}', created_at, created_at, revision, organisation_id, project_id, workspace_id,
    'made for the API key ' || name || ' when keys got owners', 'service_account', 'sa_' || substr(id, 5),
    CASE permissions WHEN '["*"]' THEN 'rol_owner' ELSE 'rol_' || substr(id, 5) END, '', 0, 'null', '', FALSE, 0, 0, ''
FROM api_keys;

UPDATE api_keys SET owner_id = 'sa_' || substr(id, 5);
