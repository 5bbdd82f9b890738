// Package portscan looks at a machine from its own layer-2 segment, as a hostile
// neighbour would: it finds the machine by ARP and neighbour discovery, sends a
// SYN and two datagrams to every port of every address, and reports what
// answered. It makes its own frames and needs no root.
//
// It promises that silence means silence: after every burst it asks the machine
// a question that every machine on a segment answers (ARP, or a neighbour
// solicitation), and goes on only when the answer is there, so the probes
// before it have been received. With a control it first finds, by the same
// code and over the same segment, two ports that it opened on purpose.
package portscan
