// Package replicas runs several control planes on one PostgreSQL, as real processes behind a balancer, and takes them away
// from each other: by SIGKILL, by SIGSTOP, by cutting what they talk through, by stopping the database under them.
package replicas
