-- What replicas say of themselves, so that one can tell in what they differ. The defaults are of replicas that do not say.
ALTER TABLE replicas ADD COLUMN keyset BIGINT NOT NULL DEFAULT 0;
ALTER TABLE replicas ADD COLUMN bus_peers BIGINT NOT NULL DEFAULT -1;
ALTER TABLE replicas ADD COLUMN clock_offset BIGINT NOT NULL DEFAULT 0;
ALTER TABLE replicas ADD COLUMN clock_known BOOLEAN NOT NULL DEFAULT FALSE;
