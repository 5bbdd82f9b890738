// Package certs gets, keeps and renews the certificates of the hosts whose TLS
// ends at a gateway.
//
// The gateways of one publication (a contract) share a Store: one account at the
// authority, one certificate per host, challenges that any of them answers, and
// locks so that two don't order at once. The Store keeps what is in it secret:
// package workload/gateway's, at rest and on the way between nodes.
//
// A certificate is renewed in the last third of its life. While that fails the
// old one is served to its end, and Status says from the first failure on what
// is wrong and since when.
//
// A host is proven at the gateways that its name leads to (HTTP-01, TLS-ALPN-01),
// for which nothing but the gateways is needed. Where an authority can't reach them,
// a host under the grid's domain is proven by a record there (DNS-01).
//
// It listens nowhere: package web answers HTTP-01 through ServeChallenge and
// TLS-ALPN-01 through GetCertificate.
package certs
