-- Checkpoints by which the keys of the audit log gave way to each other.
ALTER TABLE audit_logs ADD COLUMN handovers TEXT NOT NULL DEFAULT 'null';
