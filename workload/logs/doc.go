// Package logs keeps what a workload printed in a bounded ring of sequenced
// records on disk: at most two segment files, the older one dropped whole when
// the newer one is full.
//
// One writer (the workload's shim) and any number of readers share nothing but
// the files. A record has a checksum, so a write that was torn by kill -9 or a
// power cut ends what a reader sees of that segment, and the next writer cuts it
// off. Nothing is synced to disk: the last seconds before a power cut may be lost.
//
// A segment is named by the sequence number of its first record, 16 hex digits
// and ".log". A record is, little-endian:
//
//	length  uint32  bytes of the payload, at most MaxRecord
//	crc     uint32  CRC-32C of everything after this field
//	seq     uint64  one more than the record before
//	time    int64   nanoseconds since the epoch, from the node's clock
//	stream  uint8   1 stdout, 2 stderr, 3 the node's own remarks; bit 7: the
//	                line goes on in the next record
//	payload
package logs
