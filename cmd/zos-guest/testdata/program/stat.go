package main

import "syscall"

type unixStat = syscall.Stat_t
