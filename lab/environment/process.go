// Background processes: started in a session of their own, known by a pid file,
// ended only when the pid still is the process that was started.
package environment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// part is one background process of the lab.
type part struct {
	name    string // vcenter or openstack: stem of all file names
	command string // subcommand
	dir     string
	grace   time.Duration // how long it may take to end
}

func (p part) config() string { return filepath.Join(p.dir, p.name+".json") }
func (p part) pidFile() string {
	return filepath.Join(p.dir, p.name+".pid")
}
func (p part) ready() string   { return filepath.Join(p.dir, p.name+".ready") }
func (p part) control() string { return filepath.Join(p.dir, p.name+".sock") }
func (p part) log() string     { return filepath.Join(p.dir, "log", p.name+".log") }

// child is a part that this process started.
type child struct {
	part
	pid   int
	ended chan struct{} // closed when it has ended and err is set
	err   error
}

// start runs `EXECUTABLE NAME --config DIR/NAME.json` as a process that outlives
// this one.
func (p part) start(executable string) (*child, error) {
	output, err := os.OpenFile(p.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	command := exec.Command(executable, p.command, "--config", p.config())
	command.Dir = p.dir
	command.Stdout, command.Stderr = output, output
	// A session of its own: neither Ctrl-C nor a closed terminal reaches it.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the lab's %s: %w", p.name, err)
	}
	c := &child{part: p, pid: command.Process.Pid, ended: make(chan struct{})}
	go func() {
		c.err = command.Wait()
		close(c.ended)
	}()
	if err := writePrivate(p.pidFile(), []byte(strconv.Itoa(c.pid)+"\n")); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// awaitReady waits for the ready file and reads it with read. What the part says
// meanwhile goes to progress.
func (c *child) awaitReady(ctx context.Context, progress io.Writer, read func(raw []byte) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	told := int64(0)
	for {
		told = tell(c.log(), told, progress)
		raw, err := os.ReadFile(c.ready())
		if err == nil {
			return read(raw)
		}
		if !os.IsNotExist(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-c.ended:
			return fmt.Errorf("the lab's %s ended before it was ready (%v); the end of %s:\n%s",
				c.name, c.err, c.log(), tail(c.log()))
		case <-ctx.Done():
			reason := "stopped while waiting for"
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				reason = "there is no answer in time from"
			}
			return fmt.Errorf("%s the lab's %s; the end of %s:\n%s", reason, c.name, c.log(), tail(c.log()))
		}
	}
}

// tell copies the whole lines of a log that are new since told, without their
// dates.
func tell(path string, told int64, progress io.Writer) int64 {
	file, err := os.Open(path)
	if err != nil {
		return told
	}
	defer file.Close()
	if _, err := file.Seek(told, io.SeekStart); err != nil {
		return told
	}
	raw, _ := io.ReadAll(file)
	end := bytes.LastIndexByte(raw, '\n') + 1
	for _, line := range bytes.SplitAfter(raw[:end], []byte("\n")) {
		progress.Write(logDate.ReplaceAll(line, []byte("lab: ")))
	}
	return told + int64(end)
}

var logDate = regexp.MustCompile(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)

// end stops a child of this process.
func (c *child) end() {
	syscall.Kill(c.pid, syscall.SIGTERM)
	select {
	case <-c.ended:
		return
	case <-time.After(c.grace):
	}
	syscall.Kill(c.pid, syscall.SIGKILL)
	<-c.ended
}

const (
	graceToEnd = 10 * time.Second
	// A real cloud ends twenty services in their order.
	graceOfRealCloud = 90 * time.Second
)

// running gives the pid of the part when it runs, or 0. The command line must be
// the one that start uses: a pid may have been given to somebody else since.
func (p part) running() int {
	raw, err := os.ReadFile(p.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 || !p.is(pid) {
		return 0
	}
	return pid
}

func (p part) is(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	return len(words) == 4 && words[1] == p.command && words[2] == "--config" && words[3] == p.config()
}

// endRunning stops a part that an earlier process started. It gives what it did.
func (p part) endRunning() (string, error) {
	pid := p.running()
	if pid == 0 {
		return "was not running", nil
	}
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
		said   string
	}{{syscall.SIGTERM, p.grace, "ended"}, {syscall.SIGKILL, 5 * time.Second, "killed"}} {
		if err := syscall.Kill(pid, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return "", fmt.Errorf("cannot end the lab's %s, pid %d: %w", p.name, pid, err)
		}
		for until := time.Now().Add(step.wait); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			// A process that has ended but was not waited for has no command line.
			if !p.is(pid) {
				return fmt.Sprintf("%s (pid %d)", step.said, pid), nil
			}
		}
	}
	return "", fmt.Errorf("the lab's %s, pid %d, does not end", p.name, pid)
}

// tail gives the last lines of a log.
func tail(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	if len(lines) > 15 {
		lines = lines[len(lines)-15:]
	}
	return "  " + string(bytes.Join(lines, []byte("\n  ")))
}
