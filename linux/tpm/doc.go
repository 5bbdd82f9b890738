// Package tpm keeps a node's small secrets and its release floor in a TPM 2.0.
//
// A secret is sealed under the TPM's own storage key and the sealed blob lies
// in an NV index, so the machine's disks may be blank. The floor is a number in
// another NV index that this package only ever raises.
//
// It promises that a secret leaves the chip only on this machine. It does not
// promise that only our software asks for it: no policy is bound, because on a
// BIOS machine PCR 7 says nothing. It uses the owner hierarchy with an empty
// password, as TPMs are delivered.
package tpm
