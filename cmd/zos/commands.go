package main

import "github.com/spf13/cobra"

// Groups of verbs, in the order of help.
const (
	groupDecide  = "decide"
	groupRun     = "run"
	groupPeople  = "people"
	groupMachine = "machine"
	groupOperate = "operate"
)

var groups = []struct{ id, title string }{
	{groupDecide, "Decide:"}, {groupRun, "See what runs:"}, {groupPeople, "People, farms, images:"},
	{groupOperate, "Operate a grid:"}, {groupMachine, "This machine:"},
}

// commands lists every verb.
func (a *app) commands() []*cobra.Command {
	in := func(group string, list ...*cobra.Command) []*cobra.Command {
		for _, c := range list {
			c.GroupID = group
		}
		return list
	}
	all := in(groupDecide, a.planCommand(), a.deployCommand(), a.proposalsCommand(), a.approveCommand(), a.rollbackCommand(), a.rmCommand(), a.contractCommand())
	all = append(all, in(groupRun, a.psCommand(), a.logsCommand(), a.execCommand(), a.consoleCommand(), a.cpCommand(), a.topCommand(), a.eventsCommand(), a.restartCommand(), a.metricsCommand(), a.nodeCommand(), a.netCommand(), a.gatewayCommand(), a.doctorCommand())...)
	all = append(all, in(groupPeople, a.keyCommand(), a.accountCommand(), a.groupCommand(), a.farmCommand(), a.nameCommand(), a.domainCommand(), a.flistCommand())...)
	all = append(all, in(groupOperate, a.upCommand(), a.downCommand(), a.bootCommand(), a.releaseCommand(), a.zoneCommand(), a.genesisCommand(), a.serveCommand())...)
	return append(all, in(groupMachine, a.contextCommand())...)
}
