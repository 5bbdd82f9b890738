package main

import "github.com/spf13/cobra"

// commands lists every verb.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.upCommand(), a.downCommand(), a.bootCommand(),
	}
}
