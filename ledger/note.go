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

	Handover Handover // of the log's key, as an extension line; the zero value in most
}

// Handover says that a log's key gives way to another: it is signed by both.
type Handover struct{ From, To string } // as Key.String has them

// handoverWord begins the extension line.
const handoverWord = "loopback-log-key"

// Text is what is signed.
func (c Checkpoint) Text() string {
	text := fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	if c.Handover != (Handover{}) {
		text += handoverWord + " " + c.Handover.From + " " + c.Handover.To + "\n"
	}
	return text
}

// strict is base64 that has one spelling for every value.
var strict = base64.StdEncoding.Strict()

func parseText(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	var handover Handover
	if len(lines) == 5 {
		word, keys, _ := strings.Cut(lines[3], " ")
		from, to, _ := strings.Cut(keys, " ")
		if handover = (Handover{from, to}); word != handoverWord || handover.check() != nil {
			return Checkpoint{}, errors.New("its fourth line does not hand the key over")
		}
		lines = append(lines[:3], lines[4])
	}
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
	return Checkpoint{Origin: lines[0], Size: size, Root: Hash(root), Handover: handover}, nil
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

// Sign makes a checkpoint a signed note, by each of the keys.
func (c Checkpoint) Sign(name string, keys ...ed25519.PrivateKey) string {
	text := c.Text()
	note := text + "\n"
	for _, key := range keys {
		k := Key{Name: name, Public: key.Public().(ed25519.PublicKey)}
		signature := append(binary.BigEndian.AppendUint32(nil, k.hash()), ed25519.Sign(key, []byte(text))...)
		note += "— " + name + " " + base64.StdEncoding.EncodeToString(signature) + "\n"
	}
	return note
}

// check demands two keys of one name, in the one spelling that they have.
func (h Handover) check() error {
	from, e1 := ParseKey(h.From)
	to, e2 := ParseKey(h.To)
	if e1 != nil || e2 != nil || from.String() != h.From || to.String() != h.To || from.Name != to.Name || h.From == h.To {
		return errors.New("ledger: it is no handover from one key to another")
	}
	return nil
}

// Opener checks signed notes: a Key, or the keys that a log had one after the other.
type Opener interface {
	Open(note string) (Checkpoint, error)
}

// Chain is the keys that a log was signed with one after the other, the oldest first.
type Chain []Key

// Chain is the key with those before and after it that handovers lead to and from. A handover counts only where both keys signed
// it; others are passed over.
func (k Key) Chain(handovers []string) Chain {
	out := Chain{k}
	for range handovers { // whatever their order
		for _, note := range handovers {
			from, to, ok := handedOver(note)
			switch {
			case !ok || len(out) > len(handovers):
			case from.String() == out.Last().String():
				out = append(out, to)
			case to.String() == out[0].String():
				out = append(Chain{from}, out...)
			}
		}
	}
	return out
}

func handedOver(note string) (from, to Key, ok bool) {
	c, _, err := parseNote(note)
	if err != nil || c.Handover == (Handover{}) {
		return from, to, false
	}
	if from, err = ParseKey(c.Handover.From); err == nil {
		to, err = ParseKey(c.Handover.To)
	}
	for _, k := range []Key{from, to} {
		if err == nil {
			_, err = k.Open(note)
		}
	}
	return from, to, err == nil
}

// Last is the key that the log is signed with now.
func (c Chain) Last() Key { return c[len(c)-1] }

// Open checks a signed note: it is signed by one of the keys.
func (c Chain) Open(note string) (out Checkpoint, err error) {
	for i := len(c) - 1; i >= 0; i-- {
		if out, err = c[i].Open(note); err == nil {
			return out, nil
		}
	}
	return out, err
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
