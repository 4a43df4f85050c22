package storage_test

import (
	"testing"

	"github.com/loopbackd/loopback/server/storage/storagetest"
)

func TestPostgres(t *testing.T) {
	server := storagetest.StartPostgres(t)
	storagetest.Run(t, server.NewDatabase)
}
