-- The machines that were found to answer for one host, as JSON; null: none was.
ALTER TABLE hosts ADD COLUMN clones TEXT NOT NULL DEFAULT 'null';
