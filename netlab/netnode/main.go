package netnode

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/zero-os/zos/problem"
)

// environment holds the role of a process that Main takes over.
const environment = "ZOS_NETNODE"

// Main is called first by programs that start nodes or servers. In a process
// that was started as one it does not return.
func Main() {
	role := os.Getenv(environment)
	if role == "" {
		return
	}
	os.Unsetenv(environment)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	switch role {
	case roleNode:
		err = serve(log, newNodeProcess)
	case roleServer:
		err = serve(log, newServerProcess)
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Roles.
const (
	roleNode   = "node"
	roleServer = "server"
)

// request is one line to a process, answer one line from it.
type request struct {
	Op   string
	Args json.RawMessage
}

type answer struct {
	Error  string `json:",omitempty"`
	Code   string `json:",omitempty"`
	Result any    `json:",omitempty"`
}

// process answers requests, one at a time, until it is closed.
type process interface {
	do(ctx context.Context, op string, args json.RawMessage) (any, error)
	close() error
}

// serve reads requests until the other end goes, which also happens when the
// parent dies, so that no process is left behind.
func serve[C any](log *slog.Logger, start func(context.Context, C, *slog.Logger) (process, error)) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	var cfg C
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &cfg)
	}
	var p process
	if err == nil {
		p, err = start(ctx, cfg, log)
	}
	if err := out.Encode(answerOf(nil, err)); err != nil || p == nil {
		return err
	}
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, p.close())
		}
		var r request
		var result any
		if err = json.Unmarshal(line, &r); err == nil {
			result, err = p.do(ctx, r.Op, r.Args)
		}
		if err := out.Encode(answerOf(result, err)); err != nil {
			return errors.Join(err, p.close())
		}
	}
}

func answerOf(result any, err error) answer {
	if err == nil {
		return answer{Result: result}
	}
	a := answer{Error: err.Error()}
	var p *problem.Error
	if errors.As(err, &p) {
		a.Code = p.Code
	}
	return a
}

// with decodes what an operation needs and does it.
func with[T any](raw json.RawMessage, do func(T) (any, error)) (any, error) {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	return do(v)
}
