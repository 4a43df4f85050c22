package storage_test

import (
	"testing"

	"github.com/loopbackd/loopback/server/storage/storagetest"
)

func TestPostgres(t *testing.T) {
	server := storagetest.StartPostgres(t, "fsync=off") // nothing here cuts the power
	storagetest.Run(t, server.NewDatabase)
}
