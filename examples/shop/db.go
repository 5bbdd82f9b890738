package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of a command.
const (
	maxWords  = 16
	maxWord   = 64 << 10
	idleAfter = 5 * time.Minute
)

// db serves a table of words on port 6379, in memory.
func db(ctx context.Context) error {
	l, err := net.Listen("tcp", ":6379")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	t := &table{values: map[string]string{"item": env("ITEM", "a lamp of glass")}}
	fmt.Println("the database is on port 6379")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			t.serve(c)
		}()
	}
}

// table is what the database holds.
type table struct {
	mu     sync.Mutex
	values map[string]string
}

// serve answers a client until it ends, or says what is no command.
func (t *table) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		if err := c.SetDeadline(time.Now().Add(idleAfter)); err != nil {
			return
		}
		words, err := readCommand(r)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintf(c, "-ERR %s\r\n", err)
			}
			return
		}
		if _, err := io.WriteString(c, t.answer(words)); err != nil {
			return
		}
	}
}

// answer carries out one command.
func (t *table) answer(words []string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch command := strings.ToUpper(words[0]); {
	case command == "PING":
		return "+PONG\r\n"
	case command == "GET" && len(words) == 2:
		v, ok := t.values[words[1]]
		if !ok {
			return "$-1\r\n"
		}
		return fmt.Sprintf("$%d\r\n%s\r\n", len(v), v)
	case command == "SET" && len(words) == 3:
		t.values[words[1]] = words[2]
		return "+OK\r\n"
	case command == "INCR" && len(words) == 2:
		n, err := strconv.ParseInt("0"+t.values[words[1]], 10, 64)
		if err != nil {
			return "-ERR value is not a number\r\n"
		}
		t.values[words[1]] = strconv.FormatInt(n+1, 10)
		return fmt.Sprintf(":%d\r\n", n+1)
	}
	return "-ERR unknown command\r\n"
}

// readCommand reads one command of the Redis protocol (RESP): an array of words.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readNumber(r, '*', maxWords)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("empty command")
	}
	words := make([]string, n)
	for i := range words {
		size, err := readNumber(r, '$', maxWord)
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		words[i] = string(b[:size])
	}
	return words, nil
}

// readNumber reads a line of a mark and a number up to most.
func readNumber(r *bufio.Reader, mark byte, most int) (int, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimRight(strings.TrimPrefix(string(line), string(mark)), "\r\n"))
	if err != nil || line[0] != mark || n < 0 || n > most {
		return 0, fmt.Errorf("protocol error: expected %q and a number up to %d", mark, most)
	}
	return n, nil
}

func writeCommand(w io.Writer, words ...string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// readReply reads a word, a number or an error.
func readReply(c io.Reader) (string, error) {
	r := bufio.NewReader(c)
	first, err := r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	line := strings.TrimRight(string(first[1:]), "\r\n")
	switch first[0] {
	case '+', ':':
		return line, nil
	case '-':
		return "", errors.New(line)
	case '$':
		size, err := strconv.Atoi(line)
		if err != nil || size < 0 || size > maxWord {
			return "", errors.New("no such key")
		}
		b := make([]byte, size)
		_, err = io.ReadFull(r, b)
		return string(b), err
	}
	return "", errors.New("the database does not speak its protocol")
}
