package main

import "github.com/spf13/cobra"

// commands lists every verb.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.upCommand(), a.downCommand(),
		a.planCommand(), a.deployCommand(), a.proposalsCommand(), a.approveCommand(),
		a.psCommand(), a.logsCommand(), a.rmCommand(), a.contractCommand(), a.nodeCommand(),
		a.keyCommand(), a.accountCommand(), a.groupCommand(), a.farmCommand(),
		a.flistCommand(), a.releaseCommand(), a.genesisCommand(), a.contextCommand(), a.serveCommand(),
		a.bootCommand(),
	}
}
