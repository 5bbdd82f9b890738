#!/bin/sh
# Runs a container inside this workload, by the very runc that nodes have: it is
# root of the micro-VM, so the container has its own namespaces and a cgroup.
set -eu
# What runc wrote down of a container that ended with the machine before this one.
rm -rf /run/inner
mkdir -p /run/inner
if ! grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts; then
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
elif ! [ -w /sys/fs/cgroup/cgroup.procs ] || ! mkdir /sys/fs/cgroup/.try 2>/dev/null; then
	mount -o remount,rw /sys/fs/cgroup
else
	rmdir /sys/fs/cgroup/.try
fi
# A cgroup with processes can't hand controllers to its children: they move down.
mkdir -p /sys/fs/cgroup/outer
while read -r pid; do echo "$pid" > /sys/fs/cgroup/outer/cgroup.procs || true; done < /sys/fs/cgroup/cgroup.procs
for c in memory pids cpu; do echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control || true; done
echo "starting a container with runc"
exec runc --root /run/inner run --bundle /bundle inner
