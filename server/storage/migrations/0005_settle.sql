-- The frozen sections of which a host's own value wins, as JSON.
ALTER TABLE hosts ADD COLUMN settling TEXT NOT NULL DEFAULT 'null';
