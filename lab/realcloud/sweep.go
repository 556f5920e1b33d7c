// What a real cloud leaves on the machine beside files, and how it is taken away:
// by the supervisor when it ends, and by `down` after one that could not.
package realcloud

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	sigterm        = syscall.SIGTERM
	graceOfMariaDB = 30 * time.Second
)

// EndProcesses ends the services and the guests of the cloud in a lab's folder.
func EndProcesses(dir string) {
	if work := filepath.Join(dir, WorkName); isThere(work) {
		endChildren(work)
	}
}

// Release unmounts what is mounted below a lab's folder, and removes the bridges
// that its cloud made. Nothing may run any more.
func Release(dir string) error {
	work := filepath.Join(dir, WorkName)
	if !isThere(work) {
		return nil
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	// The volumes' loop device goes by itself, as soon as libvirtd's mounts have gone, too.
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until) && backs(filepath.Join(work, volumesImage)); {
		time.Sleep(20 * time.Millisecond)
	}
	return removeBridges(work)
}

// backs tells whether a loop device shows the file.
func backs(file string) bool {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return false
	}
	found, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range found {
		if raw, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(raw)) == real {
			return true
		}
	}
	return false
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// endGuests ends the QEMU processes. They are libvirtd's children no more, so it is
// asked; what it does not know is found by its pid files.
func endGuests(work string) {
	if _, alive := sessionOf(filepath.Join(work, "run", "libvirtd.pid")); alive {
		uri := (&layout{Work: work}).LibvirtURI()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		names, _ := exec.CommandContext(ctx, "virsh", "-c", uri, "list", "--name").Output()
		for _, name := range strings.Fields(string(names)) {
			exec.CommandContext(ctx, "virsh", "-c", uri, "destroy", name).Run()
		}
	}
	found, _ := filepath.Glob(filepath.Join(work, "libvirt", "run", "libvirt", "qemu", "*.pid"))
	for _, path := range found {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil || pid <= 1 {
			continue
		}
		// The number may be somebody else's by now; a guest of this lab names its folder.
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && bytes.Contains(line, []byte(work+"/")) && bytes.Contains(line, []byte("qemu")) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// unmountBelow unmounts everything below a folder, the newest first.
func unmountBelow(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for round := 0; round < 3; round++ {
		points, err := mountsBelow(real)
		if err != nil || len(points) == 0 {
			return err
		}
		for i := len(points) - 1; i >= 0; i-- {
			for attempt := 0; ; attempt++ {
				err := syscall.Unmount(points[i], 0)
				if err == nil || err != syscall.EBUSY {
					break
				}
				if attempt == 20 {
					// Out of sight at once, gone with its last user.
					syscall.Unmount(points[i], syscall.MNT_DETACH)
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
	}
	points, err := mountsBelow(real)
	if err == nil && len(points) > 0 {
		err = fmt.Errorf("these do not unmount: %s", strings.Join(points, ", "))
	}
	return err
}

var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`)

func mountsBelow(dir string) ([]string, error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var points []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) > 1 {
			if point := mountEscapes.Replace(words[1]); strings.HasPrefix(point, dir+"/") {
				points = append(points, point)
			}
		}
	}
	return points, lines.Err()
}

func bridgeList(work string) string { return filepath.Join(work, "bridges") }

// noteBridge writes down the name that the agent and Nova give a network's bridge,
// before there can be one.
func (s *supervisor) noteBridge(network string) error {
	if len(network) < 11 {
		return nil
	}
	return s.layout.noteInterface("brq" + network[:11])
}

func (l *layout) noteInterface(name string) error {
	file, err := os.OpenFile(bridgeList(l.Work), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(name + "\n")
	if closing := file.Close(); err == nil {
		err = closing
	}
	return err
}

// removeBridges removes those bridges only that are written down.
func removeBridges(work string) error {
	raw, err := os.ReadFile(bridgeList(work))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	names := strings.Fields(string(raw))
	sort.Strings(names)
	var failed []string
	for _, name := range names {
		if !isThere(filepath.Join("/sys/class/net", name, "bridge")) {
			continue
		}
		if said, err := exec.Command("ip", "link", "del", name).CombinedOutput(); err != nil {
			failed = append(failed, fmt.Sprintf("%s: %s", name, bytes.TrimSpace(said)))
		}
	}
	if failed != nil {
		return fmt.Errorf("bridges that do not go: %s", strings.Join(failed, "; "))
	}
	return nil
}
