package wire

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"strings"
)

// A proxy that wants to know who asks answers CONNECT with 407 and its challenges (RFC 9110, 11.7). Nothing is said before
// it asks: a password in Basic form is the password itself, and a proxy that takes a digest must not be told it.

// challenge is one way of proving who one is that a proxy offers.
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// challenges reads Proxy-Authenticate headers (RFC 9110, 11.6.1): schemes with parameters, several to a line. What cannot
// be read ends its line.
func challenges(lines []string) (all []challenge) {
	for _, line := range lines {
		r := authReader{line}
		for {
			r.skip(" \t,")
			scheme := r.token()
			if scheme == "" {
				break
			}
			c := challenge{strings.ToLower(scheme), map[string]string{}}
			for {
				before := r
				r.skip(" \t,")
				name := r.token()
				if r.skip(" \t"); name == "" || !r.take('=') {
					r = before // the next scheme, or the end
					break
				}
				r.skip(" \t")
				value, ok := r.value()
				if !ok {
					return append(all, c)
				}
				c.params[strings.ToLower(name)] = value
			}
			all = append(all, c)
		}
	}
	return all
}

// authReader takes a header apart.
type authReader struct{ rest string }

func (r *authReader) skip(set string) { r.rest = strings.TrimLeft(r.rest, set) }

func (r *authReader) take(c byte) bool {
	if r.rest != "" && r.rest[0] == c {
		r.rest = r.rest[1:]
		return true
	}
	return false
}

// token is as RFC 9110, 5.6.2 has it, with the signs of token68 that no list holds.
func (r *authReader) token() string {
	end := strings.IndexFunc(r.rest, func(c rune) bool {
		return c >= 0x7f || c <= ' ' || strings.ContainsRune(`"(),:;<=>?@[\]{}`, c)
	})
	if end < 0 {
		end = len(r.rest)
	}
	out := r.rest[:end]
	r.rest = r.rest[end:]
	return out
}

// value is a token or a quoted string. The padding of a token68, which looks like an empty value, is passed over.
func (r *authReader) value() (string, bool) {
	if !r.take('"') {
		r.skip("=")
		return r.token(), true
	}
	var out strings.Builder
	for i := 0; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c == '"':
			r.rest = r.rest[i+1:]
			return out.String(), true
		case c == '\\' && i+1 < len(r.rest):
			i++
			out.WriteByte(r.rest[i])
		default:
			out.WriteByte(c)
		}
	}
	r.rest = ""
	return "", false
}

// digests are the algorithms of RFC 7616, the best first.
var digests = []struct {
	name string
	new  func() hash.Hash
}{{"SHA-256", sha256.New}, {"MD5", md5.New}}

// authorization answers the best of some challenges for a request; empty where none can be answered.
func authorization(offered []challenge, user *url.Userinfo, method, target string) string {
	name := user.Username()
	password, _ := user.Password()
	for _, d := range digests {
		for _, c := range offered {
			algorithm := c.params["algorithm"]
			if algorithm == "" {
				algorithm = "MD5"
			}
			base, session := strings.CutSuffix(strings.ToUpper(algorithm), "-SESS")
			if c.scheme != "digest" || base != d.name || c.params["nonce"] == "" || !offersAuth(c.params["qop"]) {
				continue
			}
			random := make([]byte, 16)
			rand.Read(random)
			return digest(c.params, algorithm, d.new, session, name, password, method, target, hex.EncodeToString(random))
		}
	}
	for _, c := range offered {
		if c.scheme == "basic" {
			return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
		}
	}
	return ""
}

// offersAuth: auth-int would need the body, of which CONNECT has none; a proxy that wants only that is not met.
func offersAuth(qop string) bool {
	if qop == "" {
		return true // RFC 2069
	}
	for _, q := range strings.Split(qop, ",") {
		if strings.EqualFold(strings.TrimSpace(q), "auth") {
			return true
		}
	}
	return false
}

// digest is RFC 7616, 3.4, for the first request with a nonce.
func digest(p map[string]string, algorithm string, hashing func() hash.Hash, session bool, user, password, method, target, cnonce string) string {
	h := func(parts ...string) string {
		sum := hashing()
		_, _ = sum.Write([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum.Sum(nil))
	}
	const count = "00000001"
	secret := h(user, p["realm"], password)
	if session {
		secret = h(secret, p["nonce"], cnonce)
	}
	answer := h(secret, p["nonce"], h(method, target))
	if p["qop"] != "" {
		answer = h(secret, p["nonce"], count, cnonce, "auth", h(method, target))
	}
	name, hashed := user, ""
	if strings.EqualFold(p["userhash"], "true") {
		name, hashed = h(user, p["realm"]), ", userhash=true"
	}
	out := fmt.Sprintf(`Digest username=%s, realm=%s, nonce=%s, uri=%s, response="%s", algorithm=%s%s`,
		quoted(name), quoted(p["realm"]), quoted(p["nonce"]), quoted(target), answer, algorithm, hashed)
	if p["qop"] != "" {
		out += fmt.Sprintf(`, qop=auth, nc=%s, cnonce="%s"`, count, cnonce)
	}
	if p["opaque"] != "" {
		out += ", opaque=" + quoted(p["opaque"])
	}
	return out
}

// quoted is a quoted string; line breaks, which would end the header, are left out.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\r", "", "\n", "").Replace(s) + `"`
}

// offers names the schemes of some challenges, for an error.
func offers(all []challenge) string {
	var names []string
	for _, c := range all {
		names = append(names, c.scheme)
	}
	return strings.Join(names, ", ")
}

const proxyAuthorization = "Proxy-Authorization"

// withAuthorization is a copy of a request's headers with one more.
func withAuthorization(h http.Header, value string) http.Header {
	h = h.Clone()
	h.Set(proxyAuthorization, value)
	return h
}
