package main

import (
	"bufio"
	"net"
	"strings"
	"testing"
)

func TestTheDatabaseAnswers(t *testing.T) {
	d := &table{values: map[string]string{"item": "a lamp"}}
	client, server := net.Pipe()
	go func() { d.serve(server); server.Close() }()
	for _, c := range []struct {
		command []string
		want    string
	}{
		{[]string{"PING"}, "PONG"}, {[]string{"get", "item"}, "a lamp"}, {[]string{"SET", "item", "a chair"}, "OK"},
		{[]string{"GET", "item"}, "a chair"}, {[]string{"INCR", "n"}, "1"}, {[]string{"INCR", "n"}, "2"},
	} {
		go writeCommand(client, c.command...)
		if got, err := readReply(client); err != nil || got != c.want {
			t.Errorf("%v: %q, %v", c.command, got, err)
		}
	}
	for _, bad := range [][]string{{"GET", "nothing"}, {"INCR", "item"}, {"FLUSHALL"}} {
		go writeCommand(client, bad...)
		if got, err := readReply(client); err == nil {
			t.Errorf("%v: %q", bad, got)
		}
	}
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{"*1\r\n$4\r\nPING\r\n", "*2\r\n$3\r\nGET\r\n$99999999\r\n", "*-1\r\n", "\n", "*0\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words, err := readCommand(bufio.NewReader(strings.NewReader(s)))
		if err == nil && (len(words) == 0 || len(words) > maxWords) {
			t.Errorf("%d words", len(words))
		}
	})
}
