package engine

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/cometbft/cometbft/libs/log"
	rpccore "github.com/cometbft/cometbft/rpc/core"
	rpcserver "github.com/cometbft/cometbft/rpc/jsonrpc/server"
	"golang.org/x/net/netutil"

	"github.com/zero-os/zos/ledger/wire"
)

const (
	// maxRequest is the size of the largest request: a transaction in base64.
	maxRequest = 2*wire.MaxTx + 1<<16
	// maxConnections is how many connections are served at once.
	maxConnections = 512
)

// served are the methods of CometBFT's RPC that light clients need. The others,
// subscriptions and whatever tells about peers among them, are not served.
var served = []string{
	"health", "status", "header", "block", "commit", "validators",
	"abci_query", "broadcast_tx_sync", "broadcast_evidence",
}

// rpcServer serves CometBFT's RPC on a listener of our own: CometBFT's server
// does not tell its port, and stays open for connections that are.
type rpcServer struct {
	addr   string
	server *http.Server
	ended  chan struct{}
}

func serveRPC(listener net.Listener, env *rpccore.Environment, logger log.Logger) *rpcServer {
	all, routes := env.GetRoutes(), rpccore.RoutesMap{}
	for _, name := range served {
		routes[name] = all[name]
	}
	mux := http.NewServeMux()
	rpcserver.RegisterRPCFuncs(mux, routes, logger)
	config := rpcserver.DefaultConfig()
	config.MaxBodyBytes = maxRequest
	config.MaxRequestBatchSize = 4
	s := &rpcServer{addr: listener.Addr().String(), ended: make(chan struct{})}
	s.server = &http.Server{
		Handler:           rpcserver.PreChecksHandler(rpcserver.RecoverAndLogHandler(mux, logger), config),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	go func() {
		defer close(s.ended)
		_ = s.server.Serve(netutil.LimitListener(listener, maxConnections))
	}()
	return s
}

// close lets running requests end for a moment and then cuts them.
func (s *rpcServer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		_ = s.server.Close()
	}
	<-s.ended
}
