package flist

// Limits of a Manifest. docs/reference/flist.cddl states the same numbers.
// They bound what a decoder allocates, and they are what Linux, EROFS and
// overlay can hold, so a valid manifest can always be mounted.
const (
	// MaxManifest is the size of a manifest's canonical bytes.
	MaxManifest = 256 << 20
	// MaxEntries is how many names a tree may have (also canon.MaxArray).
	MaxEntries = 1 << 20
	// MaxPath is the length of an entry's path in bytes (PATH_MAX without its NUL).
	MaxPath = 4095
	// MaxName is the length of one component of a path (NAME_MAX).
	MaxName = 255
	// MaxFileSize is the size of one file: MaxChunks chunks.
	MaxFileSize = MaxChunks * ChunkSize
	// MaxChunks is how many chunks one file may have (also canon.MaxArray).
	MaxChunks = 1 << 20
	// MaxXattrs is how many extended attributes one entry may have.
	MaxXattrs = 512
	// MaxXattrName is the length of an attribute's name with its prefix.
	MaxXattrName = 255
	// MaxXattrValue is the length of an attribute's value; EROFS counts it in 16 bits.
	MaxXattrValue = 65535
	// MaxXattrBytes is the sum of all names and values of one entry.
	MaxXattrBytes = 128 << 10
	// MaxConfigItems is how many arguments or variables an image's configuration may have.
	MaxConfigItems = 4096
	// MaxConfigString is the length of one of them (MAX_ARG_STRLEN without its NUL).
	MaxConfigString = 128<<10 - 1
)

// File type bits of Entry.Mode. They have Linux's values on every system.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
	ModePerm    = 0o007777 // permissions with setuid, setgid and sticky
)
