package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// asked is what the tests of a workload's life run.
func asked(verb string, args []string) {
	switch verb {
	case "web": // healthy unless /tmp/sick is there
		fmt.Println("web")
		panic(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := os.Stat("/tmp/sick"); err == nil || r.URL.Path != "/healthz" {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})))
	case "trap": // ends by SIGUSR1 alone
		signal.Ignore(unix.SIGTERM)
		got := make(chan os.Signal, 1)
		signal.Notify(got, unix.SIGUSR1)
		fmt.Println("trapped")
		<-got
		fmt.Println("asked to end")
		os.Exit(7)
	case "diary": // writes a line at every start, and ends in another way each time
		f, err := os.OpenFile(args[0], os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			_, err = f.WriteString("a line of its own\n")
		}
		b, rerr := os.ReadFile(args[0])
		n := strings.Count(string(b), "\n")
		fmt.Println("diary", n, err, rerr)
		switch n {
		case 1, 2:
			os.Exit(3)
		case 3:
			hog()
		case 4:
			panic("at the fourth start")
		}
		time.Sleep(time.Hour)
	case "cat":
		for _, f := range args {
			b, err := os.ReadFile(f)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Stdout.Write(b)
		}
	case "stat":
		for _, f := range args {
			var st unix.Stat_t
			if err := unix.Lstat(f, &st); err != nil {
				fmt.Println(err)
				continue
			}
			fmt.Printf("%s %o %d:%d\n", f, st.Mode&0o7777, st.Uid, st.Gid)
		}
	case "write":
		if err := os.WriteFile(args[0], []byte(args[1]), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "take": // megabytes into a file
		n, _ := strconv.Atoi(args[1])
		if err := os.WriteFile(args[0], make([]byte, n<<20), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "env":
		for _, name := range args {
			fmt.Println(os.Getenv(name))
		}
	case "echo":
		n, _ := io.Copy(os.Stdout, os.Stdin)
		fmt.Fprintf(os.Stderr, "%d bytes\n", n)
		os.Exit(3)
	case "tty":
		if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
			fmt.Println("no terminal")
			os.Exit(1)
		}
		resized := make(chan os.Signal, 8)
		signal.Notify(resized, unix.SIGWINCH)
		for {
			ws, _ := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			fmt.Printf("terminal %dx%d\n", ws.Row, ws.Col)
			<-resized
		}
	case "leave": // a grandchild that holds its output open
		cmd := exec.Command("/bin/payload", "sleep")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			os.Exit(1)
		}
		fmt.Println("left", cmd.Process.Pid)
		if len(args) > 0 {
			time.Sleep(time.Hour)
		}
	case "flip": // a directory that turns into a link to / and back
		for n := 0; ; n++ {
			_ = os.Mkdir("/tmp/a", 0o777)
			_ = os.Symlink("/", "/tmp/b")
			if err := unix.Renameat2(unix.AT_FDCWD, "/tmp/a", unix.AT_FDCWD, "/tmp/b", unix.RENAME_EXCHANGE); err != nil {
				fmt.Println(err)
			}
			if n == 10 {
				fmt.Println("flipping")
			}
		}
	}
}
