package signin

import (
	"crypto/rand"
	"math/big"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/secret"
)

// DevicePrefix of the string that a device asks with.
const DevicePrefix = "lbd"

// A device that wants to sign in is approved in a browser (the shape of RFC 8628).
const (
	DeviceLife     = 10 * time.Minute
	DeviceInterval = 5 * time.Second // between questions whether it was approved
	MaxDevices     = 1000            // that wait, in the whole deployment
	MaxDevicesHere = 20              // that wait, from one network

	StepUpInterval = 2 * time.Second
	// MaxGuesses are the wrong codes that one person may type in the life of a code, on all replicas together: of 20^8, with a
	// thousand devices waiting, somebody who types all of them hits one with a chance of 4 in ten million.
	MaxGuesses = 10
)

// Device is one that waits to be signed in, or was.
type Device struct {
	ID        string // "dvc_…"
	Hash      []byte // of the string that the device asks with
	CodeHash  []byte // of the code that its user types
	Address   string
	Network   string // of the address: an IPv4 /24 or an IPv6 /48
	Agent     string
	CreatedAt time.Time
	ExpiresAt time.Time

	DecidedAt time.Time
	Approved  bool
	UserID    string
	SignInID  string // by which it was approved
	KeyID     string
	ProvedAt  time.Time
	MFAAt     time.Time
	UsedAt    time.Time

	// StepUp is the sign-in that asks for a fresh passkey of its user's, instead of a new sign-in; empty: a new one is asked for.
	StepUp string
}

// Waits tells whether somebody can still decide.
func (d Device) Waits(now time.Time) bool { return d.DecidedAt.IsZero() && now.Before(d.ExpiresAt) }

// letters of codes: consonants that are not mistaken for each other and spell nothing (RFC 8628, 6.1).
const letters = "BCDFGHJKLMNPQRSTVWXZ"

// codeLength gives 20^8, 34.5 bits.
const codeLength = 8

// NewCode makes what a person types: "BCDF-GHJK".
func NewCode() string {
	var b strings.Builder
	for i := range codeLength {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			panic(err) // crypto/rand does not fail
		}
		if i == codeLength/2 {
			b.WriteByte('-')
		}
		b.WriteByte(letters[n.Int64()])
	}
	return b.String()
}

// ParseCode is a code as it is compared, however it was typed.
func ParseCode(s string) (string, error) {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		if strings.ContainsRune(letters, r) {
			return r
		}
		if r == '-' || r == ' ' {
			return -1
		}
		return '?'
	}, s)
	if len(plain) != codeLength || strings.Contains(plain, "?") {
		return "", ErrDeviceCode
	}
	return plain, nil
}

// NewDevice makes the id and the string of a device.
func NewDevice(now time.Time) (deviceID, text string) {
	deviceID = id.New("dvc", now)
	body := make([]byte, bodySize)
	rand.Read(body)
	return deviceID, secret.Format(DevicePrefix, deviceID, body)
}

// ParseDevice is the id of the device whose string this is.
func ParseDevice(s string) (deviceID string, err error) {
	public, _, err := secret.Parse(DevicePrefix, s, bodySize)
	if err != nil {
		return "", ErrDevice
	}
	return "dvc_" + public, nil
}

// Errors of signing in a device.
var (
	ErrDeviceCode = fault.New(fault.NotFound, "device_code_unknown", "no device waits for this code: it is mistyped, was used already, or is older than ten minutes").
			WithHint("begin again on the device: loopback login --browser")
	ErrDevice = fault.New(fault.Unauthenticated, "device_unknown", "this sign-in is not known, or took longer than ten minutes").
			WithHint("begin again: loopback login --browser")
	ErrDeviceUser = fault.New(fault.Denied, "device_other_user", "this asks for the passkey of another user").
			WithHint("sign in as who runs the command, and open the page again")
	ErrDeviceDenied = fault.New(fault.Denied, "device_denied", "the sign-in was denied in the browser")
	ErrDevicesMany  = fault.New(fault.Exhausted, "devices_many", "too many devices wait to be signed in").WithRetryAfter(time.Minute).
			WithHint("approve or deny those that wait, or try again in some minutes")
	ErrGuesses = fault.New(fault.Exhausted, "device_code_guesses", "too many codes were wrong").WithRetryAfter(10 * time.Minute).
			WithHint("wait ten minutes, then type the code that the device shows")
)
