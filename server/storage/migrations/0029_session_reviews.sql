-- Recorded shells that somebody else has to look at: which, and what became of them; and the commands that recur in shells.
CREATE TABLE session_review_policies (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    roles           TEXT NOT NULL,
    share           BIGINT NOT NULL,
    within_span     BIGINT NOT NULL,
    written_by      TEXT NOT NULL
);
CREATE UNIQUE INDEX session_review_policies_place ON session_review_policies (organisation_id, project_id, workspace_id);

CREATE TABLE session_reviews (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    session_id      TEXT NOT NULL,
    host_name       TEXT NOT NULL,
    principal_id    TEXT NOT NULL,
    principal_name  TEXT NOT NULL,
    reason          TEXT NOT NULL,
    ticket          TEXT NOT NULL,
    ended_at        BIGINT NOT NULL,
    cause           TEXT NOT NULL,
    due_at          BIGINT NOT NULL,
    state           TEXT NOT NULL,
    verdict         TEXT NOT NULL,
    note            TEXT NOT NULL,
    reviewer        TEXT NOT NULL,
    reviewer_name   TEXT NOT NULL,
    done_at         BIGINT NOT NULL
);
CREATE INDEX session_reviews_state ON session_reviews (state, due_at);

CREATE TABLE session_draws (
    id        TEXT PRIMARY KEY,
    committed BYTEA NOT NULL,
    sealed    BYTEA NOT NULL,
    drawn_at  BIGINT NOT NULL
);

CREATE TABLE shell_commands (
    id              TEXT PRIMARY KEY,
    session_id      TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    principal_id    TEXT NOT NULL,
    host_id         TEXT NOT NULL,
    at              BIGINT NOT NULL,
    command         TEXT NOT NULL,
    times           BIGINT NOT NULL
);
CREATE INDEX shell_commands_at ON shell_commands (at);
CREATE INDEX shell_commands_session ON shell_commands (session_id);
CREATE INDEX shell_sessions_ended ON shell_sessions (ended_at) WHERE state = 'ended';
