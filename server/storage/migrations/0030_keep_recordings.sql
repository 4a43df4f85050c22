-- How long recordings of shells are kept, by place; the empty one is the deployment. Which are on hold, and which were deleted.
CREATE TABLE recording_retentions (
    id              TEXT PRIMARY KEY,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    keep_days       BIGINT NOT NULL,
    reason          TEXT NOT NULL,
    written_by      TEXT NOT NULL,
    updated_at      BIGINT NOT NULL
);
ALTER TABLE shell_sessions ADD COLUMN held_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shell_sessions ADD COLUMN held_by TEXT NOT NULL DEFAULT '';
ALTER TABLE shell_sessions ADD COLUMN held_by_name TEXT NOT NULL DEFAULT '';
ALTER TABLE shell_sessions ADD COLUMN held_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE shell_sessions ADD COLUMN deleted_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shell_sessions ADD COLUMN deleted_by TEXT NOT NULL DEFAULT '';
ALTER TABLE shell_sessions ADD COLUMN deleted_by_name TEXT NOT NULL DEFAULT '';
ALTER TABLE shell_sessions ADD COLUMN deleted_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE shell_sessions ADD COLUMN host_deleted_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX shell_sessions_kept ON shell_sessions (ended_at) WHERE state = 'ended' AND deleted_at = 0;
CREATE INDEX shell_sessions_held ON shell_sessions (id) WHERE held_at > 0;
CREATE INDEX shell_sessions_on_host ON shell_sessions (id) WHERE deleted_at > 0 AND host_deleted_at = 0;
