package console

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// How long a browser stays signed in.
const (
	Idle     = 12 * time.Hour     // without a call
	Absolute = 7 * 24 * time.Hour // since the sign-in
	renew    = 5 * time.Minute    // how old a cookie's last use may get before it is written anew
)

// cookieName: the prefix makes browsers refuse it from anybody but this very host, over TLS.
const cookieName = "__Host-loopback"

// Authenticator tells who presents a credential.
type Authenticator interface {
	Authenticate(ctx context.Context, credential string, from netip.Addr) (access.Actor, error)
}

// Sessions turn an API key into a cookie and back.
//
// The cookie is the key, sealed (AES-256-GCM) with a key that only the control plane derives. Nothing is stored: every
// replica can open it, and an API key that is revoked or expires ends the session with its next call. HttpOnly keeps it
// from scripts, SameSite=Strict and a check of the request's origin keep other sites from using it.
type Sessions struct {
	keys    Authenticator
	seal    cipher.AEAD
	address func(*http.Request) netip.Addr
	now     func() time.Time
	origin  *http.CrossOriginProtection
}

// NewSessions makes them. secret is the deployment's pepper.
func NewSessions(secret []byte, keys Authenticator, address func(*http.Request) netip.Addr, now func() time.Time) (*Sessions, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "loopback console session v1", 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of sessions: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of sessions: %w", err)
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of sessions: %w", err)
	}
	return &Sessions{keys: keys, seal: seal, address: address, now: now, origin: http.NewCrossOriginProtection()}, nil
}

// session is what a cookie holds.
type session struct {
	Key   string `json:"k"`
	Began int64  `json:"b"` // seconds since 1970
	Used  int64  `json:"u"`
}

// ServeHTTP signs in (POST with {"key": "lbk_…"}) and out (DELETE).
func (s *Sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if err := s.origin.Check(r); err != nil {
		refuse(w, http.StatusForbidden, fault.New(fault.Denied, "cross_site", "this request comes from another site"))
		return
	}
	switch r.Method {
	case http.MethodPost:
		var in struct {
			Key string `json:"key"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&in); err != nil {
			refuse(w, http.StatusBadRequest, fault.New(fault.Invalid, "body_invalid", "the body is not JSON with a key"))
			return
		}
		in.Key = strings.TrimSpace(in.Key)
		if _, err := s.keys.Authenticate(r.Context(), in.Key, s.address(r)); err != nil {
			f := fault.Of(err)
			status := http.StatusUnauthorized
			if f.Kind == fault.Unavailable {
				status = http.StatusServiceUnavailable
			}
			refuse(w, status, f)
			return
		}
		now := s.now().Unix()
		s.set(w, session{Key: in.Key, Began: now, Used: now})
		w.WriteHeader(http.StatusNoContent)
	case http.MethodDelete:
		http.SetCookie(w, cookie("", -1))
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", "POST, DELETE")
		refuse(w, http.StatusMethodNotAllowed, fault.New(fault.Invalid, "method_invalid", "POST signs in, DELETE signs out"))
	}
}

// Wrap lets a browser that is signed in call an API that knows keys. A request that carries a credential of its own is
// left as it is.
func (s *Sessions) Wrap(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie(cookieName)
		if err != nil || r.Header.Get("Authorization") != "" || s.origin.Check(r) != nil {
			api.ServeHTTP(w, r)
			return
		}
		in, ok := s.open(c.Value)
		if !ok {
			http.SetCookie(w, cookie("", -1))
			api.ServeHTTP(w, r)
			return
		}
		if now := s.now().Unix(); now-in.Used > int64(renew.Seconds()) {
			in.Used = now
			s.set(w, in)
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+in.Key)
		api.ServeHTTP(w, r)
	})
}

// open reads a cookie; not ok where it is not ours, was altered, or is over.
func (s *Sessions) open(value string) (in session, ok bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(sealed) < s.seal.NonceSize() {
		return in, false
	}
	plain, err := s.seal.Open(nil, sealed[:s.seal.NonceSize()], sealed[s.seal.NonceSize():], []byte(cookieName))
	if err != nil || json.Unmarshal(plain, &in) != nil {
		return in, false
	}
	now := s.now()
	return in, now.Before(time.Unix(in.Began, 0).Add(Absolute)) && now.Before(time.Unix(in.Used, 0).Add(Idle))
}

func (s *Sessions) set(w http.ResponseWriter, in session) {
	plain, _ := json.Marshal(in) // of strings and numbers
	nonce := make([]byte, s.seal.NonceSize())
	rand.Read(nonce)
	sealed := s.seal.Seal(nonce, nonce, plain, []byte(cookieName))
	left := time.Unix(in.Began, 0).Add(Absolute).Sub(s.now())
	http.SetCookie(w, cookie(base64.RawURLEncoding.EncodeToString(sealed), int(min(left, Idle).Seconds())))
}

func cookie(value string, age int) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

// refuse answers as the API does: a stable code, a message, a hint.
func refuse(w http.ResponseWriter, status int, f *fault.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": f.Code, "message": f.Message, "hint": f.Hint})
}
