package keys

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
)

// An invitation travels as a file that is worth nothing without the code that was shown beside it, and the code nothing
// without the file: carry them by two ways.

const sealContext = "loopback invitation 1\x00"

// Seal makes the file and its code.
func (i Invitation) Seal() (file []byte, code string, err error) {
	raw := make([]byte, 20)
	rand.Read(raw)
	code = id.Encoding.EncodeToString(raw)
	plain, err := json.Marshal(i)
	if err != nil {
		return nil, "", err
	}
	aead, err := sealer(code)
	if err != nil {
		return nil, "", err
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, plain, []byte(sealContext)), grouped(code), nil
}

// Unseal opens a file with its code, however that was typed.
func Unseal(file []byte, code string) (i Invitation, err error) {
	wrong := fault.New(fault.Unauthenticated, "invitation_code", "the code does not open this invitation").
		WithHint("type the code that loopbackd invite printed with this very file")
	aead, err := sealer(strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(strings.TrimSpace(code))))
	if err != nil {
		return i, err
	}
	if len(file) < aead.NonceSize() {
		return i, wrong
	}
	plain, err := aead.Open(nil, file[:aead.NonceSize()], file[aead.NonceSize():], []byte(sealContext))
	if err != nil {
		return i, wrong
	}
	return i, json.Unmarshal(plain, &i)
}

func sealer(code string) (cipher.AEAD, error) {
	key := sha256.Sum256([]byte(sealContext + code)) // the code is 160 random bits: no need to stretch it
	return chacha20poly1305.NewX(key[:])
}

func grouped(code string) string {
	var parts []string
	for len(code) > 0 {
		n := min(4, len(code))
		parts, code = append(parts, code[:n]), code[n:]
	}
	return strings.Join(parts, "-")
}
