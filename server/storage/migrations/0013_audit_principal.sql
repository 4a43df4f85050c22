-- On whose behalf an act was done, when its second factor was given, and the version of the rules that allowed it.
ALTER TABLE audit_entries ADD COLUMN principal TEXT NOT NULL DEFAULT '';
ALTER TABLE audit_entries ADD COLUMN mfa_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE audit_entries ADD COLUMN snapshot BIGINT NOT NULL DEFAULT 0;
CREATE INDEX audit_entries_principal ON audit_entries (principal, position);
