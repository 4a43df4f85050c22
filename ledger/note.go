package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Checkpoint is the state of a log: how many leaves, and the root over them. Signed, it is a C2SP checkpoint: a signed
// note (c2sp.org/signed-note) whose text is origin, size and root.
type Checkpoint struct {
	Origin string // which log: "loopback/dep_…/audit/1"
	Size   int64
	Root   Hash
}

// Text is what is signed.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// strict is base64 that has one spelling for every value.
var strict = base64.StdEncoding.Strict()

func parseText(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] == "" {
		return Checkpoint{}, errors.New("it is not the three lines of a checkpoint")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, errors.New("its size is not a number")
	}
	root, err := strict.DecodeString(lines[2])
	if err != nil || len(root) != hashSize {
		return Checkpoint{}, errors.New("its root is not a hash")
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: Hash(root)}, nil
}

// Key is the public half of a log's key, under the name by which its signatures go.
type Key struct {
	Name   string
	Public ed25519.PublicKey
}

const algorithm = 1 // Ed25519, in keys and in their hashes

func (k Key) hash() uint32 {
	sum := sha256.Sum256(append([]byte(k.Name+"\n"+string(rune(algorithm))), k.Public...))
	return binary.BigEndian.Uint32(sum[:])
}

// String is the key as verifiers are given it: name, hash, algorithm and key, as c2sp.org/signed-note has it.
func (k Key) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.Name, k.hash(), base64.StdEncoding.EncodeToString(append([]byte{algorithm}, k.Public...)))
}

// ParseKey reads what String wrote.
func ParseKey(s string) (Key, error) {
	name, rest, _ := strings.Cut(strings.TrimSpace(s), "+")
	sum, encoded, ok := strings.Cut(rest, "+")
	b, err := strict.DecodeString(encoded)
	hash, hexErr := hex.DecodeString(sum)
	if !ok || err != nil || hexErr != nil || len(hash) != 4 || len(b) != 1+ed25519.PublicKeySize || b[0] != algorithm || !nameable(name) {
		return Key{}, errors.New("ledger: it is not a log's key, NAME+HASH+KEY")
	}
	k := Key{Name: name, Public: ed25519.PublicKey(b[1:])}
	if k.hash() != binary.BigEndian.Uint32(hash) {
		return Key{}, errors.New("ledger: the log's key was not copied whole: its hash does not fit")
	}
	return k, nil
}

func nameable(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsAny(name, " \t\r\n+")
}

// Sign makes a checkpoint a signed note.
func (c Checkpoint) Sign(name string, key ed25519.PrivateKey) string {
	text := c.Text()
	k := Key{Name: name, Public: key.Public().(ed25519.PublicKey)}
	signature := append(binary.BigEndian.AppendUint32(nil, k.hash()), ed25519.Sign(key, []byte(text))...)
	return text + "\n— " + name + " " + base64.StdEncoding.EncodeToString(signature) + "\n"
}

// maxNote bounds a note and the signatures on it: others may add theirs.
const (
	maxNote       = 1 << 16
	maxSignatures = 100
)

// ErrSignature says that a checkpoint is not signed by the key that it is checked against.
var ErrSignature = errors.New("ledger: the checkpoint is not signed by the log's key")

// Open checks a signed note and returns the checkpoint in it. Signatures by other keys are passed over.
func (k Key) Open(note string) (Checkpoint, error) {
	c, signatures, err := parseNote(note)
	if err != nil {
		return Checkpoint{}, err
	}
	for _, s := range signatures {
		if s.name != k.Name || s.hash != k.hash() {
			continue
		}
		if !ed25519.Verify(k.Public, []byte(c.Text()), s.signature) {
			return Checkpoint{}, ErrSignature
		}
		return c, nil
	}
	return Checkpoint{}, ErrSignature
}

type signature struct {
	name      string
	hash      uint32
	signature []byte
}

// Unverified reads a checkpoint without looking at its signatures.
func Unverified(note string) (Checkpoint, error) {
	c, _, err := parseNote(note)
	return c, err
}

func parseNote(note string) (Checkpoint, []signature, error) {
	if len(note) > maxNote || !utf8.ValidString(note) {
		return Checkpoint{}, nil, errors.New("ledger: it is not a signed checkpoint")
	}
	text, rest, ok := strings.Cut(note, "\n\n")
	if !ok || rest == "" || !strings.HasSuffix(rest, "\n") {
		return Checkpoint{}, nil, errors.New("ledger: it is not a signed checkpoint: there is no signature")
	}
	c, err := parseText(text + "\n")
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("ledger: it is not a signed checkpoint: %w", err)
	}
	lines := strings.Split(strings.TrimSuffix(rest, "\n"), "\n")
	if len(lines) > maxSignatures {
		return Checkpoint{}, nil, errors.New("ledger: it has too many signatures")
	}
	var out []signature
	for _, line := range lines {
		line, ok := strings.CutPrefix(line, "— ")
		name, encoded, both := strings.Cut(line, " ")
		b, err := strict.DecodeString(encoded)
		if !ok || !both || !nameable(name) || err != nil || len(b) < 5 {
			return Checkpoint{}, nil, errors.New("ledger: it is not a signed checkpoint: a signature is malformed")
		}
		out = append(out, signature{name, binary.BigEndian.Uint32(b), b[4:]})
	}
	return c, out, nil
}

// Origin names a deployment's log. The first of a deployment has no predecessor; one that goes on after a backup was
// restored is named after the last checkpoint of the one before, so that the two cannot be parted.
func Origin(deployment string, number int64, previous string) string {
	o := fmt.Sprintf("%s/%d", KeyName(deployment), number)
	if previous != "" {
		sum := sha256.Sum256([]byte(previous))
		o += "/after/" + hex.EncodeToString(sum[:16])
	}
	return o
}

// KeyName is the name that a deployment's log signs with.
func KeyName(deployment string) string { return "loopback/" + deployment + "/audit" }

// Follows tells whether origin names the log that goes on after a signed checkpoint; with none, whether it is a first log.
func Follows(origin, previous string) bool {
	_, after, ok := strings.Cut(origin, "/after/")
	if previous == "" {
		return !ok
	}
	sum := sha256.Sum256([]byte(previous))
	return ok && after == hex.EncodeToString(sum[:16])
}
