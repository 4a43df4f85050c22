-- The grant that a binding came of, and what an act rested on: who approved it, and why. Also how the credential was come by.
ALTER TABLE bindings ADD COLUMN basis TEXT NOT NULL DEFAULT '';
ALTER TABLE audit_entries ADD COLUMN basis TEXT NOT NULL DEFAULT '';
ALTER TABLE audit_entries ADD COLUMN method TEXT NOT NULL DEFAULT '';
-- Of grants that are in force already, their acts name the grant alone.
UPDATE bindings SET basis = '{"grant":"' || created_by || '"}' WHERE created_by LIKE 'gnt#_%' ESCAPE '#';
