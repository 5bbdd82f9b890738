package store

// Codes of the problems that this package reports.
const (
	CodeDigestMismatch  = "digest-mismatch"  // a hub sent something else than was asked for
	CodeHubUnreachable  = "hub-unreachable"  // no hub answered, or none fast enough
	CodeObjectMissing   = "object-missing"   // the hubs do not have it
	CodeManifestInvalid = "manifest-invalid" // the flist contradicts itself, or its format is broken
	CodeDiskFull        = "disk-full"        // no room left, or the store's limit is reached
	CodeNoVerity        = "no-verity"        // fs-verity was required and the file system has none
	CodeFaultServerDown = "fault-server-down"
	CodeMountFailed     = "mount-failed"
	CodeUpperMismatch   = "upper-mismatch" // the upper directory belongs to another range of ids
)
