package storage

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/tenant"
)

var deploymentTable = newTable("deployment", func(d *tenant.Deployment) []column {
	return []column{{"id", &d.ID}, {"epoch", &d.Epoch}, {"created_at", moment{&d.CreatedAt}},
		{"bootstrap_hash", &d.BootstrapHash}, {"bootstrap_used_at", moment{&d.BootstrapUsedAt}}, {"epoch_began", &d.EpochBegan}}
})

// Deployment is what this database is the state of; NotFound before the first start.
func (v *View) Deployment(ctx context.Context) (tenant.Deployment, error) {
	found, err := deploymentTable.list(ctx, v.session, "")
	if err == nil && len(found) == 0 {
		err = access.NotFound("the deployment")
	}
	if err != nil {
		return tenant.Deployment{}, err
	}
	return found[0], nil
}

// PutDeployment replaces it.
func (tx *Tx) PutDeployment(ctx context.Context, d tenant.Deployment) error {
	tx.touch()
	if d.CreatedAt.IsZero() {
		d.CreatedAt = tx.now
	}
	if err := tx.session.exec(ctx, "DELETE FROM deployment WHERE id <> $1", d.ID); err != nil {
		return err
	}
	return deploymentTable.put(ctx, tx.session, &d)
}
