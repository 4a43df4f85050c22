-- Commands on hosts: runs, what came of each on each host, and what the commands wrote.
CREATE TABLE exec_runs (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    command         TEXT NOT NULL,
    stdin           BYTEA,
    state           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    concurrency     BIGINT NOT NULL,
    max_failures    BIGINT NOT NULL,
    canary          BIGINT NOT NULL,
    actor           TEXT NOT NULL,
    actor_id        TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    cancelled       BOOLEAN NOT NULL,
    ended_at        BIGINT NOT NULL,
    counts          TEXT NOT NULL,
    lease_owner     TEXT NOT NULL,
    lease_until     BIGINT NOT NULL,
    attempt         BIGINT NOT NULL
);
CREATE INDEX exec_runs_state ON exec_runs (state, lease_until);
CREATE UNIQUE INDEX exec_runs_request ON exec_runs (actor_id, request_id) WHERE request_id <> '';

CREATE TABLE exec_hosts (
    id           TEXT PRIMARY KEY,
    run_id       TEXT NOT NULL,
    host_id      TEXT NOT NULL,
    host_name    TEXT NOT NULL,
    place        BIGINT NOT NULL,
    state        TEXT NOT NULL,
    replica      TEXT NOT NULL,
    since        BIGINT NOT NULL,
    not_after    BIGINT NOT NULL,
    exit_code    BIGINT NOT NULL,
    exited       BOOLEAN NOT NULL,
    signal       TEXT NOT NULL,
    error_code   TEXT NOT NULL,
    error        TEXT NOT NULL,
    hint         TEXT NOT NULL,
    started_at   BIGINT NOT NULL,
    ended_at     BIGINT NOT NULL,
    stdout_bytes BIGINT NOT NULL,
    stderr_bytes BIGINT NOT NULL,
    dropped      BIGINT NOT NULL,
    revision     BIGINT NOT NULL
);
CREATE INDEX exec_hosts_run ON exec_hosts (run_id, revision);

CREATE TABLE exec_output (
    id       TEXT PRIMARY KEY,
    run_id   TEXT NOT NULL,
    order_id TEXT NOT NULL,
    host_id  TEXT NOT NULL,
    channel  TEXT NOT NULL,
    position BIGINT NOT NULL,
    data     BYTEA,
    revision BIGINT NOT NULL
);
CREATE INDEX exec_output_run ON exec_output (run_id, revision);
