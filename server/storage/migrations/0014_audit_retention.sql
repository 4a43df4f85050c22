-- How long the bodies of audit entries are kept, by organisation; the empty one is the deployment.
CREATE TABLE audit_retentions (
    organisation_id TEXT PRIMARY KEY,
    keep_days       BIGINT NOT NULL,
    hold            BOOLEAN NOT NULL,
    reason          TEXT NOT NULL,
    updated_at      BIGINT NOT NULL
);
