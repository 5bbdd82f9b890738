// Package gateway is the data plane of a gateway: it listens at public
// addresses and carries connections and datagrams to the backends that a
// configuration names, without reading more of them than the name in a TLS
// ClientHello.
//
// It promises: what a configuration doesn't name is reached by nobody; bytes
// arrive as they were sent, with half-closes; a new configuration ends no
// connection that it still allows; every table, buffer and wait that a client, a
// backend or a dialer could grow is bounded, and what one client or tenant
// takes isn't taken from all.
//
// It decides nothing about who may publish what: that was approved, and comes as
// Config. It has no way into tenant networks of its own but its Dialer. TLS that
// ends here, and HTTP, are the Terminator's (package gateway/web).
package gateway
