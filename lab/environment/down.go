// Down and status, and the control sockets' client.
package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"vmferry.dev/lab/realcloud"
)

// Down ends a lab and removes its folder, or keeps the folder's files (disks,
// volumes, logs) for looking at.
func Down(dir string, keep bool, out io.Writer) error {
	dir, err := checkDir(dir)
	if err != nil {
		return err
	}
	marker := filepath.Join(dir, markerName)
	lock, err := lockMarker(marker, 0)
	if os.IsNotExist(err) {
		fmt.Fprintf(out, "lab: nothing is up in %s\n", dir)
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := ours(dir); err != nil {
		return err
	}
	if err := endAll(dir, out); err != nil {
		return err
	}
	if keep {
		// Without lab.json nobody takes the rest for a lab that is up.
		if err := os.Remove(filepath.Join(dir, labName)); err != nil && !os.IsNotExist(err) {
			return err
		}
		fmt.Fprintf(out, "lab: down, files kept in %s\n", dir)
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "lab: down, %s removed\n", dir)
	return nil
}

// endAll ends the parts and takes away what they leave when they could not end in
// good order: processes of a real cloud, loop devices, mounts.
func endAll(dir string, out io.Writer) error {
	if err := endParts(dir, out); err != nil {
		return err
	}
	realcloud.EndProcesses(dir)
	if err := detachLoops(dir, out); err != nil {
		return err
	}
	return realcloud.Release(dir)
}

func endParts(dir string, out io.Writer) error {
	var failed []string
	for _, p := range parts(dir) {
		said, err := p.endRunning()
		if err != nil {
			failed = append(failed, err.Error())
			continue
		}
		os.Remove(p.pidFile())
		fmt.Fprintf(out, "lab: %s %s\n", p.name, said)
	}
	if failed != nil {
		return errors.New(strings.Join(failed, "; "))
	}
	return nil
}

// clear empties a claimed folder but for its marker, which holds the lock.
func clear(dir string) error {
	if err := endAll(dir, io.Discard); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == markerName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// detachLoops detaches the loop devices whose backing file is under dir, each by
// its name. The lab's OpenStack does this itself when it ends in good order.
func detachLoops(dir string, out io.Writer) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	found, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	var failed []string
	for _, path := range found {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // detached meanwhile
		}
		backing := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), " (deleted)")
		if !strings.HasPrefix(backing, real+"/") && !strings.HasPrefix(backing, dir+"/") {
			continue
		}
		device := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(path)))
		if said, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			failed = append(failed, fmt.Sprintf("cannot detach %s from %s: %s", device, backing, bytes.TrimSpace(said)))
			continue
		}
		fmt.Fprintf(out, "lab: %s detached from %s\n", device, backing)
	}
	if failed != nil {
		return errors.New(strings.Join(failed, "; "))
	}
	return nil
}

// ErrNotUp is what Status ends with when a lab is not whole.
var ErrNotUp = errors.New("the lab is not up")

// Status says what runs.
func Status(ctx context.Context, dir string, asJSON bool, out io.Writer) error {
	dir, err := checkDir(dir)
	if err != nil {
		return err
	}
	type state struct {
		Name    string `json:"name"`
		PID     int    `json:"pid"`
		Answers bool   `json:"answers"`
	}
	lab, err := Load(dir)
	if err != nil && !errors.Is(err, ErrNoLab) {
		return err
	}
	var states []state
	whole := lab != nil
	for _, p := range parts(dir) {
		s := state{Name: p.name, PID: p.running()}
		if s.PID != 0 {
			quick, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, code, err := control(quick, p.control(), http.MethodGet, "/calls", nil)
			cancel()
			s.Answers = err == nil && code == http.StatusOK
		}
		whole = whole && s.Answers
		states = append(states, s)
	}
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(map[string]interface{}{"dir": dir, "up": whole, "parts": states, "lab": lab}); err != nil {
			return err
		}
	} else {
		for _, s := range states {
			switch {
			case s.PID == 0:
				fmt.Fprintf(out, "%-10s not running\n", s.Name)
			case !s.Answers:
				fmt.Fprintf(out, "%-10s pid %d, does not answer on its control socket\n", s.Name, s.PID)
			default:
				fmt.Fprintf(out, "%-10s pid %d, answers\n", s.Name, s.PID)
			}
		}
		if whole {
			fmt.Fprintf(out, "%-10s %s at %s\n%-10s %s\n%-10s %s\n", "source", lab.VCenter.VMPath, lab.VCenter.Endpoint,
				"target", lab.OpenStack.AuthURL, "folder", dir)
		}
	}
	if !whole {
		return fmt.Errorf("%s: %w", dir, ErrNotUp)
	}
	return nil
}

// control does one request on a control socket.
func control(ctx context.Context, socket, method, path string, body []byte) ([]byte, int, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, reader)
	if err != nil {
		return nil, 0, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return raw, response.StatusCode, err
}
