// Package storetest holds what tests of the store are made of: small flists, a
// hub that can be told to misbehave, and a check of fs-verity that is run inside a
// machine whose kernel has it. It is test support only.
package storetest
