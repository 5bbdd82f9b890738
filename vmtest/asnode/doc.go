// Package asnode gives tests inside a virtual machine what workloads have of a node:
// a process 1 that records how orphans ended, a data disk, the VMM's files, and images
// of one program. It is test support only, for tests that vmtest.RunInVM runs.
package asnode
