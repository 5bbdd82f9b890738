// Package web ends TLS for hosts that ask for it and passes their HTTP requests
// on to backends in the tenant's encrypted network.
//
// It speaks HTTP/1.1 and HTTP/2 with clients and HTTP/1.1 with backends. It
// trusts neither: what it does not understand beyond doubt is refused, what goes
// on is written anew, and everything is bounded in size and time. It sees no
// listener: package gateway hands it connections.
package web
