-- Roles for a while: which can be asked for, and who asked for what.

ALTER TABLE principals ADD COLUMN identity TEXT NOT NULL DEFAULT '';

CREATE TABLE grant_policies (
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
    role_id         TEXT NOT NULL,
    role_revision   BIGINT NOT NULL,
    terms           TEXT NOT NULL,
    ca              TEXT NOT NULL,
    sealed          BYTEA,
    created_by      TEXT NOT NULL
);
CREATE UNIQUE INDEX grant_policies_role ON grant_policies (organisation_id, project_id, workspace_id, role_id);

CREATE TABLE grants (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    subject_kind    TEXT NOT NULL,
    subject_id      TEXT NOT NULL,
    subject_name    TEXT NOT NULL,
    role_id         TEXT NOT NULL,
    role_name       TEXT NOT NULL,
    hosts           TEXT NOT NULL,
    duration        BIGINT NOT NULL,
    reason          TEXT NOT NULL,
    ticket          TEXT NOT NULL,
    policy_id       TEXT NOT NULL,
    terms           TEXT NOT NULL,
    state           TEXT NOT NULL,
    expires_at      BIGINT NOT NULL,
    approvals       TEXT NOT NULL,
    webhook         TEXT NOT NULL,
    binding_id      TEXT NOT NULL,
    began_at        BIGINT NOT NULL,
    not_after       BIGINT NOT NULL,
    ended_at        BIGINT NOT NULL,
    ended_by        TEXT NOT NULL,
    comment         TEXT NOT NULL
);
CREATE INDEX grants_subject ON grants (subject_id, id);
CREATE INDEX grants_state ON grants (state, id);
CREATE INDEX grants_place ON grants (organisation_id, project_id, workspace_id, id);
