-- What hosts remember of the audit log: the checkpoint that each is to take next, or took last.
CREATE TABLE audit_witnesses (
    host_id         TEXT PRIMARY KEY,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    log             BIGINT NOT NULL,
    size            BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    step            TEXT NOT NULL
);
