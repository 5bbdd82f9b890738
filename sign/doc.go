// Package sign makes and checks signatures in OpenSSH's SSHSIG format, so that
// an ssh-agent or a hardware key can sign for Zero-OS and ssh-keygen can check
// without our software.
//
// It is deliberately narrow: ssh-ed25519 and sk-ssh-ed25519@openssh.com keys,
// sha512 as the message hash, user presence required of hardware keys, and one
// accepted encoding of every key and signature.
package sign
