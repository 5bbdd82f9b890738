package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/zero-os/zos/problem"
)

// issuer orders certificates for one publication. certmagic's own would listen at
// ports by itself, and shares its challenges and rate limits in global variables.
type issuer struct {
	m     *Manager
	by    *authority
	store Store
}

var _ certmagic.Issuer = issuer{}

// IssuerKey names the folder of the authority's certificates in the Store.
func (i issuer) IssuerKey() string { return i.by.key }

// Issue gets a certificate for a request of one name. The name is proven at the
// gateways that it leads to, for which no ledger is needed; where these can't be
// reached, and the name is under the grid's domain, by a record there.
func (i issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	if len(csr.DNSNames) != 1 {
		return nil, fmt.Errorf("request of %d names, want one", len(csr.DNSNames))
	}
	host := csr.DNSNames[0]
	chains, err := i.obtain(ctx, csr, i.atGateways())
	if last := i.byRecord(host); err != nil && last != nil && ctx.Err() == nil && otherWay(err) {
		first := err
		if chains, err = i.obtain(ctx, csr, last); err != nil {
			err = bothWays(first, err)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, problem.New("acme-answer-invalid", "the authority sent no certificate for %s", host)
	}
	if _, err := checkChain(chains[0].ChainPEM, host, csr.PublicKey, i.m.o.Now()); err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM, Metadata: chains[0].URL}, nil
}

// obtain orders, and proves the host in the ways that there are solvers for.
func (i issuer) obtain(ctx context.Context, csr *x509.CertificateRequest, solvers map[string]acmez.Solver) ([]acme.Certificate, error) {
	client := &acmez.Client{
		Client: &acme.Client{
			Directory: i.by.url, UserAgent: "zos-gateway", PollTimeout: 2 * time.Minute,
			HTTPClient: &http.Client{Transport: i.by.transport, Timeout: 30 * time.Second},
		},
		ChallengeSolvers: solvers,
	}
	for again := true; ; again = false {
		account, err := i.account(ctx, client.Client)
		if err != nil {
			return nil, err
		}
		params, err := acmez.OrderParametersFromCSR(account, csr)
		if err != nil {
			return nil, err
		}
		chains, err := client.ObtainCertificate(ctx, params)
		var p acme.Problem
		if errors.As(err, &p) && p.Type == acme.ProblemTypeAccountDoesNotExist && again {
			// The authority has forgotten it: a test's, or one that was restored.
			if err := i.store.Delete(ctx, i.accountKey()); err != nil {
				return nil, err
			}
			continue
		}
		return chains, err
	}
}

// checkChain refuses a certificate that is not the one that was asked for.
func checkChain(chain []byte, host string, public any, now time.Time) (*x509.Certificate, error) {
	bad := func(why string) error {
		return problem.New("acme-answer-invalid", "the authority's certificate for %s: %s", host, why).
			WithFix("ask who runs the authority")
	}
	block, _ := pem.Decode(chain)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, bad("it is no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, bad(err.Error())
	}
	want, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	have, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	switch {
	case err != nil || string(want) != string(have):
		return nil, bad("it is for another key")
	case leaf.VerifyHostname(host) != nil:
		return nil, bad("it is for another name")
	case !now.Before(leaf.NotAfter):
		return nil, bad("it has expired already")
	}
	return leaf, nil
}

// account is what is kept of the publication's account at the authority.
type account struct {
	Key     []byte       `json:"key"` // PKCS #8
	Account acme.Account `json:"account"`
}

func (i issuer) accountKey() string { return "account/" + i.IssuerKey() + ".json" }

// account returns the publication's account, which the first gateway makes.
func (i issuer) account(ctx context.Context, client *acme.Client) (acme.Account, error) {
	if a, err := i.load(ctx); err == nil || !absent(err) {
		return a, err
	}
	if err := i.store.Lock(ctx, "account"); err != nil {
		return acme.Account{}, fmt.Errorf("lock account: %w", err)
	}
	defer unlock(ctx, i.store, "account")
	if a, err := i.load(ctx); err == nil || !absent(err) {
		return a, err // another gateway has made it meanwhile
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return acme.Account{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return acme.Account{}, err
	}
	a, err := client.NewAccount(ctx, acme.Account{TermsOfServiceAgreed: true, PrivateKey: key})
	if err != nil {
		return acme.Account{}, fmt.Errorf("register account: %w", err)
	}
	b, err := json.Marshal(account{Key: der, Account: a})
	if err != nil {
		return acme.Account{}, err
	}
	return a, i.store.Put(ctx, i.accountKey(), b)
}

// absent tells whether there is no account that could be used. A damaged one is
// no loss: another is made.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || broken(err)
}

func (i issuer) load(ctx context.Context) (acme.Account, error) {
	b, err := i.store.Get(ctx, i.accountKey())
	if err != nil {
		return acme.Account{}, err
	}
	var a account
	if err := json.Unmarshal(b, &a); err != nil {
		return acme.Account{}, unusable{fmt.Errorf("read account: %w", err)}
	}
	key, err := x509.ParsePKCS8PrivateKey(a.Key)
	if err != nil {
		return acme.Account{}, unusable{fmt.Errorf("read account: %w", err)}
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return acme.Account{}, unusable{errors.New("read account: its key is of another kind")}
	}
	a.Account.PrivateKey = signer
	return a.Account, nil
}

// unlock gives a lock back also when ctx has ended.
func unlock(ctx context.Context, s Store, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = s.Unlock(ctx, name) // the Store's lease ends it otherwise
}
