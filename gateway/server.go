package gateway

import (
	"context"
	"errors"
)

// Server serves one Config at a time.
type Server struct{ o Options }

// New makes a Server, which serves nothing yet.
func New(o Options) *Server { return &Server{o: o} }

// Apply replaces the configuration. It is safe to call at any time, before Run
// too. A configuration that is invalid (gateway-config-invalid) changes nothing. An
// address that can't be listened at is the Problem of its routes in Status, and is
// tried again; it fails nothing. Connections that the new configuration still
// allows (the route's ID, mode and network, and the backend) live on, others
// are drained.
func (s *Server) Apply(c Config) error { return c.Validate() }

// Run serves until ctx ends, then closes everything and returns nil. It is called once.
func (s *Server) Run(ctx context.Context) error {
	return errors.New("the data plane is not built in yet")
}

// Status says how everything is.
func (s *Server) Status() Status { return Status{} }
