// The control socket: plain HTTP and JSON over a unix socket. Both servers have
// /calls and /faults; each adds its own paths to the same mux.
package calls

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Register adds /calls and /faults to a mux.
//
//	GET    /calls   the log; DELETE empties it
//	GET    /faults  the rules with their hits
//	POST   /faults  one rule or a list of them, or {"seed":N}; answers {"ids":[...]}
//	DELETE /faults  takes all rules out of force
func Register(mux *http.ServeMux, log *Log, faults *Faults) {
	mux.HandleFunc("/calls", func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			Reply(w, http.StatusOK, log.All())
		case http.MethodDelete:
			log.Clear()
			Reply(w, http.StatusOK, struct{}{})
		default:
			Refuse(w, http.StatusMethodNotAllowed, "/calls knows GET and DELETE")
		}
	})
	mux.HandleFunc("/faults", func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			Reply(w, http.StatusOK, faults.All())
		case http.MethodDelete:
			faults.Clear()
			Reply(w, http.StatusOK, struct{}{})
		case http.MethodPost:
			ids, err := addRules(r.Body, faults)
			if err != nil {
				Refuse(w, http.StatusBadRequest, err.Error())
				return
			}
			Reply(w, http.StatusOK, map[string]interface{}{"ids": ids})
		default:
			Refuse(w, http.StatusMethodNotAllowed, "/faults knows GET, POST and DELETE")
		}
	})
}

// addRules adds all rules of a request or none.
func addRules(body io.Reader, faults *Faults) ([]int64, error) {
	raw, err := io.ReadAll(io.LimitReader(body, 1<<20))
	if err != nil {
		return nil, err
	}
	raw = bytes.TrimSpace(raw)
	var seed struct {
		Seed *int64 `json:"seed"`
	}
	if strict(raw, &seed) == nil && seed.Seed != nil {
		faults.Seed(*seed.Seed)
		return []int64{}, nil
	}
	var rules []Rule
	if len(raw) > 0 && raw[0] == '[' {
		err = json.Unmarshal(raw, &rules)
	} else {
		rules = make([]Rule, 1)
		err = json.Unmarshal(raw, &rules[0])
	}
	if err != nil {
		return nil, err
	}
	for i, rule := range rules {
		if _, err := arm(rule); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
	}
	ids := []int64{}
	for _, rule := range rules {
		id, err := faults.Add(rule)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Decode reads a JSON request body strictly: unknown fields are an error. An
// empty body leaves into as it is.
func Decode(r *http.Request, into interface{}) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	return strict(raw, into)
}

func strict(raw []byte, into interface{}) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

// Reply answers with JSON.
func Reply(w http.ResponseWriter, status int, value interface{}) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}

// Refuse answers {"error": message}.
func Refuse(w http.ResponseWriter, status int, message string) {
	Reply(w, status, map[string]string{"error": message})
}

// ListenControl listens on a unix socket that only this user may open. A socket
// left by a process that is gone is replaced; one that answers is an error.
func ListenControl(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("control socket %s: another process answers there", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("control socket %s: a file that is not a socket is in the way", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return listener, nil
}

// WriteReady writes a server's ready file whole: what it says appears under its
// name only when complete.
func WriteReady(path string, value interface{}) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
