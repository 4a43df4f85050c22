package keys

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"sync"
	"time"
)

// Resumable makes a server's configuration take up sessions again (RFC 8446, 2.2) that any replica of this deployment
// began, before a restart too. When all agents come back at once, each is spared a certificate and its verification, and we
// are spared a signature. Keys are still agreed upon anew each time: who learns a ticket's key later reads nothing of what
// was said.
func (k *Keys) Resumable(config *tls.Config, clock func() time.Time) *tls.Config {
	t := &tickets{pepper: k.Pepper, clock: clock, day: -1}
	config.WrapSession = func(at tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		c, err := t.today()
		if err != nil {
			return nil, err
		}
		return c.EncryptTicket(at, session)
	}
	config.UnwrapSession = func(ticket []byte, at tls.ConnectionState) (*tls.SessionState, error) {
		c, err := t.today()
		if err != nil {
			return nil, err
		}
		return c.DecryptTicket(ticket, at)
	}
	return config
}

// tickets are sealed under a key for each day, which follows from what replicas share and nobody else knows.
type tickets struct {
	pepper []byte
	clock  func() time.Time

	mu     sync.Mutex
	day    int64 // since 1970, that the keys are of
	config tls.Config
}

// ticketDays is how long a ticket is good for, at most: as long as a host that is off for a night stays away.
const ticketDays = 2

func (t *tickets) today() (*tls.Config, error) {
	day := t.clock().Unix() / int64((24 * time.Hour).Seconds())
	t.mu.Lock()
	defer t.mu.Unlock()
	if day == t.day {
		return &t.config, nil
	}
	keys := make([][32]byte, ticketDays) // the first seals, all open
	for i := range keys {
		key, err := hkdf.Key(sha256.New, t.pepper, nil, fmt.Sprintf("loopback tls ticket 1 day %d", day-int64(i)), len(keys[i]))
		if err != nil {
			return nil, err
		}
		keys[i] = [32]byte(key)
	}
	t.config.SetSessionTicketKeys(keys)
	t.day = day
	return &t.config, nil
}
