-- Shells on hosts, and what their recordings came to.
CREATE TABLE shell_sessions (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    host_id         TEXT NOT NULL,
    host_name       TEXT NOT NULL,
    host_user       TEXT NOT NULL,
    terminal        TEXT NOT NULL,
    principal_id    TEXT NOT NULL,
    principal_name  TEXT NOT NULL,
    actor           TEXT NOT NULL,
    address         TEXT NOT NULL,
    reason          TEXT NOT NULL,
    ticket          TEXT NOT NULL,
    rule            TEXT NOT NULL,
    state           TEXT NOT NULL,
    started_at      BIGINT NOT NULL,
    ended_at        BIGINT NOT NULL,
    end_reason      TEXT NOT NULL,
    exit_status     BIGINT NOT NULL,
    ends_by         BIGINT NOT NULL,
    replica         TEXT NOT NULL,
    lives           BIGINT NOT NULL,
    sealed          BYTEA,
    head            TEXT NOT NULL,
    host_head       TEXT NOT NULL,
    verdict         TEXT NOT NULL,
    differs         BIGINT NOT NULL
);
CREATE INDEX shell_sessions_open ON shell_sessions (id) WHERE state <> 'ended';
CREATE INDEX shell_sessions_host ON shell_sessions (host_id, id);
CREATE INDEX shell_sessions_principal ON shell_sessions (principal_id, id);
