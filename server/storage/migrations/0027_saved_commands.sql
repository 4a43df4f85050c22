-- Commands that one operator saved and another approved: a row a version.
CREATE TABLE saved_commands (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL,
    labels           TEXT NOT NULL,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    revision         BIGINT NOT NULL,
    organisation_id  TEXT NOT NULL,
    project_id       TEXT NOT NULL,
    workspace_id     TEXT NOT NULL,
    description      TEXT NOT NULL,
    version          BIGINT NOT NULL,
    command          TEXT NOT NULL,
    parameters       TEXT NOT NULL,
    state            TEXT NOT NULL,
    saved_by         TEXT NOT NULL,
    saved_by_name    TEXT NOT NULL,
    approved_by      TEXT NOT NULL,
    approved_by_name TEXT NOT NULL,
    approved_at      BIGINT NOT NULL
);
CREATE UNIQUE INDEX saved_commands_version ON saved_commands (workspace_id, name, version);
