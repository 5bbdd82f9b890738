package control

import (
	"testing"

	"github.com/zero-os/zos/canon/schematest"
)

// TestSchemaNamesTheFieldsOfEveryMessage keeps gateway.cddl and the structs the
// same: exactly their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryMessage(t *testing.T) {
	schematest.Compare(t, "../..", "gateway.cddl", map[string]any{
		"hello": Hello{}, "config": Config{}, "route": Route{}, "backend": Backend{}, "zone": Zone{}, "zone-name": ZoneName{}, "zone-record": ZoneRecord{},
		"applied": Applied{}, "status-request": StatusRequest{}, "status": Status{}, "route-status": RouteStatus{}, "backend-status": BackendStatus{},
		"certificate-status": CertificateStatus{}, "sockets-request": SocketsRequest{}, "failure": Failure{}, "sockets-reply": SocketsReply{},
		"log-batch": LogBatch{}, "log-line": LogLine{}, "note": Note{}, "store-request": StoreRequest{}, "store-reply": StoreReply{},
		"record-request": RecordRequest{}, "resolve-request": ResolveRequest{}, "resolve-reply": ResolveReply{},
	})
}
