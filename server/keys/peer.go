package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// errStranger is what a connection ends with whose other end no keyset lists.
var errStranger = fault.New(fault.Unauthenticated, "replica_unknown", "the other end is no replica of this deployment")

// PeerTLS is a configuration for both ends of connections between replicas. Each shows a certificate that it signed
// itself: what counts is its key, which the keyset that the anchor signed has to list at that moment. So an eviction
// holds from the moment that the keyset is taken up, and the local CA, whose key every replica has, opens nothing here.
// Where only is set, it must be that replica.
func (k *Keys) PeerTLS(only string) (*tls.Config, error) {
	certificate, err := k.peerCertificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // VerifyConnection does it
		SessionTicketsDisabled: true, // a resumed session would outlive an eviction
		VerifyConnection: func(s tls.ConnectionState) error {
			r, err := k.PeerOf(s)
			if err == nil && only != "" && r.Name != only {
				err = errStranger
			}
			return err
		},
	}, nil
}

// PeerOf is the replica at the other end of a connection.
func (k *Keys) PeerOf(s tls.ConnectionState) (trust.Replica, error) {
	if len(s.PeerCertificates) == 0 {
		return trust.Replica{}, errStranger
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return trust.Replica{}, errStranger
	}
	set, _ := k.Current()
	r, ok := set.Peer(key)
	if !ok {
		return trust.Replica{}, errStranger
	}
	return r, nil
}

func (k *Keys) peerCertificate() (tls.Certificate, error) {
	// Its dates are not looked at: the keyset says who is a replica, and until when.
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: k.Name()},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<36, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Peer.Public(), k.Peer)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.Peer}, nil
}

// busContext keeps a signature made for the bus from meaning anything elsewhere.
const busContext = "loopback bus 1\x00"

// Sign is this replica's signature over a message of the bus.
func (k *Keys) Sign(message []byte) (replica string, signature []byte) {
	return k.Name(), ed25519.Sign(k.Peer, append([]byte(busContext), message...))
}

// Verify tells whether that replica, which the keyset must list, signed a message of the bus.
func (k *Keys) Verify(replica string, message, signature []byte) bool {
	set, _ := k.Current()
	r, ok := k.listed(set).Replica(replica) // a first replica that has invited nobody is listed nowhere, and hears itself
	return ok && ed25519.Verify(r.PeerKey, append([]byte(busContext), message...), signature)
}
