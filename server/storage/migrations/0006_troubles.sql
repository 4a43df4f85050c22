-- What stands or stood in a host's way, as JSON: codes of loopback-agent doctor with message, time and attempts.
ALTER TABLE hosts ADD COLUMN troubles TEXT NOT NULL DEFAULT 'null';
