package shell

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/loopbackd/loopback/shell"
)

// Who types has shown a passkey a moment ago. They are not asked for one whenever the network comes back, and yet a sign-in that
// somebody stole must not take over what runs. So they are given a text that only they have, in the memory of the page or program that
// they type in, and that is good for this session, this sign-in, this way to take part and this origin alone; a new one every minute, each
// for shell.TakenUpAgain. It is checked by recomputing it: any replica can, after any restart.

// renewAgain is how old a text becomes before the next is given.
const renewAgain = time.Minute

const againSize = 8 + sha256.Size

// again is the key that such texts are made with.
func again(seal []byte) []byte {
	mac := hmac.New(sha256.New, seal)
	mac.Write([]byte("loopback shell again 1"))
	return mac.Sum(nil)
}

func (s *Service) sign(session string, mode Mode, actor string, origin uint64, at time.Time) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(at.Unix()))
	mac := hmac.New(sha256.New, s.again)
	for _, part := range []string{session, string(mode), actor} { // none of them holds a NUL
		mac.Write(append([]byte(part), 0))
	}
	mac.Write(binary.BigEndian.AppendUint64(nil, origin))
	mac.Write(b)
	return mac.Sum(b)
}

// knows tells whether a text was given to whoever shows it, not too long ago.
func (s *Service) knows(t Taking, actor string) bool {
	b, err := base64.RawURLEncoding.DecodeString(t.Proof)
	if err != nil || len(b) != againSize || t.Origin == 0 {
		return false
	}
	at := time.Unix(int64(binary.BigEndian.Uint64(b)), 0)
	if age := s.Now().Sub(at); age > shell.TakenUpAgain || age < -time.Minute { // clocks of replicas differ a little
		return false
	}
	return hmac.Equal(b, s.sign(t.Session, t.Mode, actor, t.Origin, at))
}

// Again is what the viewer shows to go on after a cut; empty while what they have will do, and for who watches.
func (v *Viewer) Again() string {
	s := v.l.s
	now, last := s.Now(), v.given.Load()
	if v.mode == Watching || v.origin == 0 || last != 0 && now.Sub(time.Unix(0, last)) < renewAgain || !v.given.CompareAndSwap(last, now.UnixNano()) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(s.sign(v.l.id(), v.mode, v.actor, v.origin, now))
}
