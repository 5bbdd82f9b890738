// Package domain tells whom a name of the internet belongs to, and where it points.
//
// A domain that is not under the grid's is a group's if a text record at
// _zos.DOMAIN says so, signed by members whose weights reach the group's
// threshold (Make, Verify). Gateways look it up again and again (Watch), keep the
// last good answer for a day, and then serve the name no more.
//
// Check compares a host's records with where they should point, in words that
// people can act upon.
package domain
