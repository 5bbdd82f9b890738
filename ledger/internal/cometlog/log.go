// Package cometlog lets CometBFT write to log/slog.
package cometlog

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/cometbft/cometbft/libs/log"
)

// New returns a CometBFT logger on l. CometBFT tells every block at its info
// level and every lost connection as an error: they become debug and warnings.
func New(l *slog.Logger) log.Logger { return logger{l} }

type logger struct{ to *slog.Logger }

func (l logger) Debug(msg string, kv ...any) {
	// Its debug messages hold whole blocks; slog.LevelDebug is taken by info.
	l.log(slog.LevelDebug-4, msg, kv)
}
func (l logger) Info(msg string, kv ...any)  { l.log(slog.LevelDebug, msg, kv) }
func (l logger) Warn(msg string, kv ...any)  { l.log(slog.LevelWarn, msg, kv) }
func (l logger) Error(msg string, kv ...any) { l.log(slog.LevelWarn, msg, kv) }
func (l logger) With(kv ...any) log.Logger   { return logger{l.to.With(kv...)} }

func (l logger) log(level slog.Level, msg string, kv []any) {
	if !l.to.Enabled(context.Background(), level) {
		return
	}
	// Values are often stringers made to be formatted late, or big structs.
	for i := 1; i < len(kv); i += 2 {
		switch kv[i].(type) {
		case string, bool, int, int32, int64, uint64, error:
		default:
			kv[i] = fmt.Sprintf("%.200v", kv[i])
		}
	}
	l.to.Log(context.Background(), level, msg, kv...)
}
