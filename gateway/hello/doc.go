// Package hello reads the server name and the application protocols that a TLS
// client asks for from the first bytes that it sends, and nothing else of them.
//
// It promises to say the same of a ClientHello as a TLS server would, however
// the hello is split over records and segments, in bounded time and memory,
// and to panic on nothing. It checks no cryptography and changes no byte.
package hello
