// Package secret seals the values of a plan's secrets to the node that runs the
// workload, so that a plan can lie on a public ledger.
//
// What is sealed opens with one node's key alone, and only as the same secret of
// the same workload of the same deployment: spliced into any other plan it stays
// closed. It does not bind the version: an update carries sealed bytes on, since
// who plans it need not know the value. What is done with an opened value the plan
// says, which a quorum of the group has signed: a group in which one member's approval
// is enough has no secrets from its members. Who signs is told when a value that
// stays sealed as it was is handed to another image or command.
package secret
