// Command program is what the tests run inside a guest.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "look":
		look()
	case "exit":
		leave(args[0])
	case "kill":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "serve":
		serve()
	case "flood":
		n, _ := strconv.Atoi(args[0])
		for i := range n {
			fmt.Printf("line %08d\n", i)
		}
	case "leave": // a child of its own behind
		cmd := exec.Command("/program", "sleep")
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		check(cmd.Start())
		fmt.Println("left one")
	case "zeros":
		n, _ := strconv.Atoi(args[0])
		_, _ = os.Stdout.Write(make([]byte, n))
	case "wait": // for SIGTERM, which it obeys unless told otherwise
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		fmt.Println("waiting")
		for range c {
			fmt.Println("asked to stop")
			if len(args) == 0 {
				os.Exit(3)
			}
		}
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "write": // and ends with the exit code that it is told
		check(os.WriteFile(args[0], []byte(args[1]), 0o644))
		if len(args) > 2 {
			leave(args[2])
		}
	case "read":
		b, err := os.ReadFile(args[0])
		check(err)
		fmt.Printf("%s", b)
	case "sh": // a terminal's other end: echoes lines and tells the size
		in := bufio.NewScanner(os.Stdin)
		ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		check(err)
		fmt.Printf("terminal %d by %d\n", ws.Row, ws.Col)
		for in.Scan() {
			if in.Text() == "bye" {
				os.Exit(5)
			}
			fmt.Printf("you said %s\n", in.Text())
		}
	case "memory":
		var keep [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
		}
	case "fork":
		var started []*exec.Cmd
		for range 200 {
			c := exec.Command("/program", "sleep")
			if c.Start() != nil {
				break
			}
			started = append(started, c)
		}
		for _, c := range started {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		fmt.Println("started", len(started) < 200)
	case "sleep":
		time.Sleep(time.Hour)
	case "running": // what each process of this world was started as
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		check(err)
		for _, f := range all {
			if b, _ := os.ReadFile(f); len(b) > 0 {
				fmt.Println(strings.Join(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"), " "))
			}
		}
	case "mount":
		check(unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""))
		check(os.Mkdir("/sys/fs/cgroup/inner", 0o755))
		for _, d := range []string{"/mnt/u", "/mnt/w", "/mnt/m"} {
			check(os.Mkdir(d, 0o755))
		}
		check(unix.Mount("o", "/mnt/m", "overlay", 0, "lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w"))
		check(unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET))
		fmt.Println("mounted")
	}
}

func leave(code string) {
	n, _ := strconv.Atoi(code)
	fmt.Println("out")
	fmt.Fprintln(os.Stderr, "err")
	os.Exit(n)
}

func check(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func serve() {
	// It is process 1 of its world: what others leave behind stays a zombie, and counts
	// to the limit, until it is collected here.
	ended, told := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	signal.Notify(told, unix.SIGUSR1, unix.SIGTERM)
	go func() {
		for s := range told {
			fmt.Println("told", s)
			if s == unix.SIGTERM {
				os.Exit(3)
			}
		}
	}()
	go func() {
		for range ended {
			for pid := 1; pid > 0; {
				pid, _ = unix.Wait4(-1, nil, unix.WNOHANG, nil)
			}
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:8080")
	check(err)
	http.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	http.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	fmt.Println("serving")
	check(http.Serve(l, nil))
}

// look prints the world as a program sees it, a fact a line.
func look() {
	fmt.Println("pid", os.Getpid(), "uid", os.Getuid(), "gid", os.Getgid())
	groups, _ := os.Getgroups()
	fmt.Println("groups", groups)
	host, _ := os.Hostname()
	fmt.Println("host", host)
	cwd, _ := os.Getwd()
	fmt.Println("cwd", cwd)
	fmt.Println("args", strings.Join(os.Args, " "))
	for _, e := range os.Environ() {
		fmt.Println("env", e)
	}
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		for _, k := range []string{"Cap", "NoNewPrivs", "Seccomp:"} {
			if strings.HasPrefix(l, k) {
				fmt.Println(strings.Join(strings.Fields(l), " "))
			}
		}
	}
	var l unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &l)
	fmt.Println("core", l.Cur, l.Max)
	b, _ = os.ReadFile("/proc/self/limits")
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "Max open files") {
			fmt.Println(strings.Join(strings.Fields(l), " "))
		}
	}
	b, _ = os.ReadFile("/proc/self/cgroup")
	fmt.Print("cgroup ", string(b))
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, f := range fds {
		if t, err := os.Readlink(f); err == nil {
			fmt.Println("fd", filepath.Base(f), t)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	fmt.Println("processes", len(procs))
	devs, _ := filepath.Glob("/dev/*")
	fmt.Println("devices", strings.Join(devs, " "))
	roots, _ := filepath.Glob("/*")
	fmt.Println("root", strings.Join(roots, " "))
	for _, f := range []string{"/etc/hosts", "/etc/resolv.conf", "/run/secrets/word", "/etc/image"} {
		b, err := os.ReadFile(f)
		fi, serr := os.Stat(f)
		if err != nil || serr != nil {
			fmt.Println("file", f, err)
			continue
		}
		st := fi.Sys().(*unixStat)
		fmt.Println("file", f, fi.Mode(), st.Uid, st.Gid, strings.TrimSpace(string(b)))
	}
	for _, f := range []string{"/etc/hosts", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup/cgroup.procs", "/etc/new", "/dev/shm/x", "/tmp/x"} {
		fd, err := unix.Open(f, unix.O_WRONLY|unix.O_CREAT, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		fmt.Println("write", f, err)
	}
	b, err := os.ReadFile("/proc/kcore")
	fmt.Println("kcore", len(b), err)
	fmt.Println("mknod", unix.Mknod("/tmp/node", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))))
	fmt.Println("mount", unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""))
	fmt.Println("reboot", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	fmt.Println("sethostname", unix.Sethostname([]byte("x")))
	ifaces, _ := net.Interfaces()
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		fmt.Println("interface", i.Name, i.MTU, i.Flags&net.FlagUp != 0, addrs)
	}
	b, _ = os.ReadFile("/proc/net/route")
	fmt.Println("routes", strings.Count(string(b), "\n")-1)
	fmt.Println("time", time.Now().Unix())
}
