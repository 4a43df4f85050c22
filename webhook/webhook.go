// Package webhook is how a receiver can tell that a request is ours: Standard Webhooks (standardwebhooks.com). The signature is
// HMAC-SHA256 over id.timestamp.body under a secret that both know, "whsec_" and base64 of 24 to 64 bytes; a receiver refuses
// timestamps that are minutes off, and ids that it has seen.
package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Prefix of secrets.
const Prefix = "whsec_"

// NewSecret makes one.
func NewSecret() string {
	raw := make([]byte, 24)
	rand.Read(raw)
	return Prefix + base64.StdEncoding.EncodeToString(raw)
}

// Key is the key in a secret.
func Key(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, Prefix)
	if !ok {
		return nil, errors.New("it does not begin with " + Prefix)
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err == nil && (len(key) < 24 || len(key) > 64) {
		err = errors.New("it is not 24 to 64 bytes long")
	}
	return key, err
}

// Sign sets the headers of a request that has this body.
func Sign(h http.Header, key []byte, id string, at time.Time, body []byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.", id, stamp)
	m.Write(body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
}
