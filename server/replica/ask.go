package replica

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"
)

// AboutPath is where a replica tells another about itself, on the port for other replicas.
const AboutPath = "/replica/v1/about"

// About is what a replica says to another, and to a doctor who has the keys of one.
type About struct {
	Replica string    `json:"replica"`
	Version string    `json:"version"`
	At      time.Time `json:"at"` // by its clock
	Ready   bool      `json:"ready"`
}

// Client is for asking one replica, by the configuration that only it can answer.
func Client(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DialContext: (&net.Dialer{}).DialContext, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}}
}

// Ask asks the replica at an address about itself. One of a version that knows no such question has answered all the
// same, with nothing.
func Ask(ctx context.Context, c *http.Client, address string) (a About, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+AboutPath, nil)
	if err != nil {
		return a, err
	}
	answer, err := c.Do(r)
	if err != nil {
		return a, err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound {
		return a, nil
	}
	if answer.StatusCode != http.StatusOK {
		return a, fmt.Errorf("it answers %s", answer.Status)
	}
	return a, json.NewDecoder(http.MaxBytesReader(nil, answer.Body, 64<<10)).Decode(&a)
}
