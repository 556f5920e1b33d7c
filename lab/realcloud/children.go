// The services as child processes: each in a session of its own, known by a pid
// file with its start time, so that whoever comes after a crash can end it too.
package realcloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// children are the processes that this supervisor started.
type children struct {
	layout *layout
	mu     sync.Mutex
	all    []*child
	ending bool
	lost   chan *child // the first that ended by itself
}

func newChildren(l *layout) *children { return &children{layout: l, lost: make(chan *child, 1)} }

type child struct {
	name  string
	pid   int
	out   string // file with what it said
	log   string // file with what it logged, if it has one
	again func() (*child, error)
	told  bool          // to end
	ended chan struct{} // closed when it has ended and err is set
	err   error
}

// environment of every child: nothing of the caller's, whose proxies and Python
// would confuse the services.
func (l *layout) environment(extra ...string) []string {
	return append([]string{"PATH=" + l.in("shim") + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + l.Work, "TMPDIR=" + l.in("tmp"),
		"LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH=" + l.in("python"), "PYTHONWARNINGS=ignore"}, extra...)
}

// start runs a program in the background. environment lines come before words.
func (c *children) start(name string, environment []string, words ...string) (*child, error) {
	l := c.layout
	made := &child{name: name, again: func() (*child, error) { return c.start(name, environment, words...) }, out: filepath.Join(l.Log, name+".out"), log: filepath.Join(l.Log, name+".log"), ended: make(chan struct{})}
	output, err := os.OpenFile(made.out, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	command := exec.Command(words[0], words[1:]...)
	command.Dir, command.Env, command.Stdout, command.Stderr = l.Work, l.environment(environment...), output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if name == "libvirtd" {
		// Mounts of its own, see the program. (With Unshareflags Go would cut off what
		// nova-compute mounts later.)
		command.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return nil, errors.New("the cloud is ending")
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("%s does not start: %w", name, err)
	}
	made.pid = command.Process.Pid
	c.all = append(c.all, made)
	started, _ := startTime(made.pid) // before anybody waits for it: one that ended at once would be gone
	go func() {
		made.err = command.Wait()
		c.mu.Lock()
		told := c.ending || made.told
		c.mu.Unlock()
		close(made.ended)
		if !told {
			log.Printf("%s has ended: %v", name, made.err)
			select {
			case c.lost <- made:
			default:
			}
		}
	}()
	line := fmt.Sprintf("%d %s\n", made.pid, started)
	return made, os.WriteFile(l.pidFile(name), []byte(line), 0o600)
}

func (l *layout) pidFile(name string) string { return filepath.Join(l.in("run"), name+".pid") }

// failure says that a child has ended too early, with its last words.
func (m *child) failure() error {
	return fmt.Errorf("%s ended before the cloud was up (%v)%s", m.name, m.err, m.words())
}

// words are the last that a child logged and said.
func (m *child) words() string {
	said := ""
	for _, path := range []string{m.log, m.out} {
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			said += fmt.Sprintf("; the end of %s:\n%s", path, lastWords(path))
		}
	}
	return said
}

// finish ends one child before the others.
func (c *children) finish(m *child, grace time.Duration) {
	c.mu.Lock()
	m.told = true
	c.mu.Unlock()
	endGroups([]string{c.layout.pidFile(m.name)}, sigterm, grace)
	<-m.ended
}

// restart ends a service and starts it anew, as an administrator might.
func (c *children) restart(name string) error {
	var found *child
	c.mu.Lock()
	for i, one := range c.all {
		if one.name == name {
			found = one
			c.all = append(append([]*child{}, c.all[:i]...), c.all[i+1:]...)
			break
		}
	}
	c.mu.Unlock()
	if found == nil {
		return fmt.Errorf("no service is called %s", name)
	}
	c.finish(found, 10*time.Second)
	_, err := found.again()
	return err
}

// await tries until try succeeds, the child has ended, or the time is over.
func (m *child) await(ctx context.Context, what string, try func(ctx context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-m.ended:
			return m.failure()
		case <-ctx.Done():
			return fmt.Errorf("%s: %s: no success in time: %v%s", m.name, what, err, m.words())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// awaitHTTP waits until something answers HTTP at an address, whatever it says.
func (m *child) awaitHTTP(ctx context.Context, url string) error {
	return m.await(ctx, url, func(ctx context.Context) error {
		attempt, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(attempt, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := plain.Do(request)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	})
}

func (m *child) awaitPort(ctx context.Context, address string) error {
	return m.await(ctx, address, func(context.Context) error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// run runs a short program to its end.
func (l *layout) run(ctx context.Context, name string, environment []string, words ...string) error {
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Dir, command.Env = l.Work, l.environment(environment...)
	said, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %v:\n%s", name, err, lastLines(said))
	}
	return nil
}

// end ends everything: the services together, then what they were using.
func (c *children) end() {
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	endChildren(c.layout.Work)
}

// The order in which the services end; what is not named ends first. RabbitMQ's
// queues are not kept, so it is not asked to put them in order, which takes it ten
// seconds.
var endLast = []struct {
	name  string
	first syscall.Signal
	grace time.Duration
}{{"libvirtd", syscall.SIGTERM, 5 * time.Second}, {"rabbitmq", syscall.SIGKILL, 0}, {"epmd", syscall.SIGKILL, 0}, {"mariadb", syscall.SIGTERM, 20 * time.Second}}

// endChildren ends what the pid files in a cloud's folder name.
func endChildren(work string) {
	found, _ := filepath.Glob(filepath.Join(work, "run", "*.pid"))
	late := map[string]bool{}
	for _, one := range endLast {
		late[one.name] = true
	}
	var first []string
	for _, path := range found {
		if name := strings.TrimSuffix(filepath.Base(path), ".pid"); !late[name] {
			first = append(first, path)
		}
	}
	endGroups(first, syscall.SIGTERM, 4*time.Second)
	endGuests(work)
	for _, one := range endLast {
		endGroups([]string{filepath.Join(work, "run", one.name+".pid")}, one.first, one.grace)
	}
}

// endGroups signals the processes of pid files, waits, and kills what is left of
// their sessions.
func endGroups(paths []string, signal syscall.Signal, grace time.Duration) {
	pids := map[string]int{}
	for _, path := range paths {
		pid, leads := sessionOf(path)
		if pid != 0 {
			pids[path] = pid
		}
		if leads && signal == syscall.SIGTERM {
			syscall.Kill(pid, signal)
		}
	}
	for until := time.Now().Add(grace); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		living := 0
		for path := range pids {
			if _, leads := sessionOf(path); leads {
				living++
			}
		}
		if living == 0 {
			break
		}
	}
	for _, pid := range pids {
		killSession(pid)
	}
	for _, path := range paths {
		os.Remove(path)
	}
}

// killSession kills every process of a session that a child led: workers and
// privsep daemons that outlive their parent.
func killSession(leader int) {
	// What was killed is gone when a busy machine gets to it.
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		left := 0
		processes, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range processes {
			fields := statFields(path)
			if len(fields) < 20 || fields[0] == "Z" || fields[3] != strconv.Itoa(leader) {
				continue
			}
			if pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))); pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
				left++
			}
		}
		if left == 0 {
			return
		}
	}
}

// sessionOf gives the session of a pid file, 0 when there can be nothing left of
// it, and whether its leader lives. The kernel gives a leader's number to nobody
// while its session has members; if another process has it, by its start time, the
// session is over.
func sessionOf(path string) (pid int, leads bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	words := strings.Fields(string(raw))
	if len(words) != 2 {
		return 0, false
	}
	if pid, err = strconv.Atoi(words[0]); err != nil || pid <= 1 {
		return 0, false
	}
	started, alive := startTime(pid)
	if started != "" && started != words[1] {
		return 0, false
	}
	return pid, alive
}

func startTime(pid int) (started string, alive bool) {
	fields := statFields(fmt.Sprintf("/proc/%d/stat", pid))
	if len(fields) < 20 {
		return "", false
	}
	return fields[19], fields[0] != "Z"
}

// statFields are the fields of proc(5)'s stat from the state on: the name before
// may have spaces.
func statFields(path string) []string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	at := bytes.LastIndexByte(raw, ')')
	if at < 0 {
		return nil
	}
	return strings.Fields(string(raw[at+1:]))
}

func lastWords(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	return lastLines(raw)
}

func lastLines(raw []byte) string {
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	if len(lines) > 20 {
		lines = lines[len(lines)-20:]
	}
	return "  " + string(bytes.Join(lines, []byte("\n  ")))
}

// list tells which services run.
func (c *children) list() []obj {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []obj{}
	for _, one := range c.all {
		running := true
		select {
		case <-one.ended:
			running = false
		default:
		}
		all = append(all, obj{"name": one.name, "pid": one.pid, "running": running, "log": one.out})
	}
	return all
}
