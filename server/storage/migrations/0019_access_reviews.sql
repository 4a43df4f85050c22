-- Reviews of standing access, and the bindings under each as they were when it began.
CREATE TABLE access_reviews (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    description     TEXT NOT NULL,
    state           TEXT NOT NULL,
    due_at          BIGINT NOT NULL,
    revoke_open     BOOLEAN NOT NULL,
    created_by      TEXT NOT NULL,
    closed_at       BIGINT NOT NULL,
    counts          TEXT NOT NULL
);
CREATE INDEX access_reviews_state ON access_reviews (state, due_at);

CREATE TABLE access_review_items (
    id              TEXT PRIMARY KEY,
    review_id       TEXT NOT NULL,
    binding_id      TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    project_id      TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    subject_kind    TEXT NOT NULL,
    subject_id      TEXT NOT NULL,
    subject_name    TEXT NOT NULL,
    role_id         TEXT NOT NULL,
    role_name       TEXT NOT NULL,
    hosts           TEXT NOT NULL,
    not_after       BIGINT NOT NULL,
    about           TEXT NOT NULL,
    granted_at      BIGINT NOT NULL,
    granted_by      TEXT NOT NULL,
    last_act        BIGINT NOT NULL,
    last_seen       BIGINT NOT NULL,
    verdict         TEXT NOT NULL,
    rationale       TEXT NOT NULL,
    answered_by     TEXT NOT NULL,
    answered_name   TEXT NOT NULL,
    answered_at     BIGINT NOT NULL
);
CREATE INDEX access_review_items_review ON access_review_items (review_id, verdict, id);
