// Package link brings up the machine's network cards and gets them an address
// by DHCP.
//
// It opens no listening socket of the machine's network stack: DHCP runs over a
// packet socket that lives only while a lease is asked for.
package link
