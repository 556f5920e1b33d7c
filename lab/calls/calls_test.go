package calls

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func rule(t *testing.T, text string) Rule {
	t.Helper()
	var r Rule
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func add(t *testing.T, f *Faults, text string) {
	t.Helper()
	if _, err := f.Add(rule(t, text)); err != nil {
		t.Fatal(err)
	}
}

// strikes gives a string of x (struck) and . (passed) for n equal calls.
func strikes(f *Faults, n int, service, method, object string) string {
	var b strings.Builder
	for i := 0; i < n; i++ {
		if _, struck := f.Match(service, method, object); struck {
			b.WriteByte('x')
		} else {
			b.WriteByte('.')
		}
	}
	return b.String()
}

func TestSkipCountAndMatch(t *testing.T) {
	f := NewFaults(1)
	add(t, f, `{"service":"volume","method":"POST","path_regex":"/volumes$","skip":2,"count":3,"kind":"http","status":503}`)
	if got := strikes(f, 2, "volume", "GET", "/v3/volumes") + strikes(f, 2, "compute", "POST", "/v3/volumes") + strikes(f, 2, "volume", "POST", "/v3/volumes/1"); got != "......" {
		t.Error(got)
	}
	if got := strikes(f, 7, "volume", "POST", "/v3/volumes"); got != "..xxx.." {
		t.Error(got)
	}
	if all := f.All(); len(all) != 1 || all[0].Hits != 3 {
		t.Error(all)
	}
	f.Clear()
	add(t, f, `{"kind":"reset"}`)
	if got := strikes(f, 3, "a", "b", "c"); got != "x.." {
		t.Error("count is 1 when left out:", got)
	}
	f.Clear()
	add(t, f, `{"kind":"reset","count":-1}`)
	if got := strikes(f, 4, "a", "b", "c"); got != "xxxx" {
		t.Error(got)
	}
}

func TestProbabilityRepeatsWithItsSeed(t *testing.T) {
	run := func(seed int64) string {
		f := NewFaults(seed)
		add(t, f, `{"kind":"reset","count":-1,"probability":0.3}`)
		return strikes(f, 1000, "a", "b", "c")
	}
	if run(5) != run(5) || run(5) == run(6) {
		t.Error("not by the seed")
	}
	if n := strings.Count(run(5), "x"); n < 230 || n > 370 {
		t.Error(n, "of 1000 at 0.3")
	}
}

func TestBadRulesAreRefused(t *testing.T) {
	for _, text := range []string{`{}`, `{"kind":"none"}`, `{"kind":"http"}`, `{"kind":"fault"}`, `{"kind":"delay"}`, `{"kind":"reset","count":0}`,
		`{"kind":"reset","count":-2}`, `{"kind":"reset","probability":0}`, `{"kind":"reset","probability":1.5}`, `{"kind":"reset","path_regex":"("}`,
		`{"kind":"reset","skip":-1}`, `{"kind":"reset","sevrice":"volume"}`, `{"kind":"reset"} {}`, `[{"kind":"reset"},{"kind":"none"}]`, ``} {
		f := NewFaults(1)
		if ids, err := addRules(strings.NewReader(text), f); err == nil || len(f.All()) != 0 {
			t.Errorf("%s: %v, %v in force", text, ids, f.All())
		}
	}
}

// Over a real connection: what each kind looks like to a client.
func TestMiddleware(t *testing.T) {
	var acts, expired int32
	log, faults := &Log{}, NewFaults(1)
	m := &Middleware{Log: log, Faults: faults,
		Name: func(r *http.Request) (string, string, string) { return "volume", r.Method, r.URL.Path },
		Expire: func(*http.Request) {
			atomic.AddInt32(&expired, 1)
		},
		Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			atomic.AddInt32(&acts, 1)
			w.WriteHeader(http.StatusAccepted)
			io.WriteString(w, "done")
		})}
	for _, secure := range []bool{false, true} {
		server := httptest.NewUnstartedServer(nil)
		server.Config = Server(m)
		if secure {
			server.StartTLS()
		} else {
			server.Start()
		}
		client := server.Client()
		client.Transport.(*http.Transport).DisableKeepAlives = true
		for _, c := range []struct {
			rule   string
			status int // 0 = the connection is cut
			acts   int32
			logged string
		}{
			{"", 202, 1, "202 "},
			{`{"kind":"reset"}`, 0, 0, "0 reset"},
			{`{"kind":"lost-reply"}`, 0, 1, "0 lost-reply"},
			{`{"kind":"lost-reply","status":504}`, 504, 1, "504 lost-reply"},
			{`{"kind":"http","status":503,"retry_after":7,"message":"busy"}`, 503, 0, "503 http"},
			{`{"kind":"delay","delay_ms":30}`, 202, 1, "202 delay"},
			{`{"kind":"expire"}`, 202, 1, "202 expire"},
		} {
			log.Clear()
			faults.Clear()
			atomic.StoreInt32(&acts, 0)
			if c.rule != "" {
				add(t, faults, c.rule)
			}
			start := time.Now()
			// POST: the transport repeats a cut GET by itself.
			response, err := client.Post(server.URL+"/v3/volumes", "text/plain", strings.NewReader("x"))
			status := 0
			if err == nil {
				status = response.StatusCode
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if status == 503 && (response.Header.Get("Retry-After") != "7" || !strings.Contains(string(body), "busy")) {
					t.Errorf("%s: %v %s", c.rule, response.Header, body)
				}
			}
			if status != c.status || atomic.LoadInt32(&acts) != c.acts {
				t.Errorf("TLS %v %s: status %d (%v), %d acts", secure, c.rule, status, err, atomic.LoadInt32(&acts))
			}
			if strings.Contains(c.rule, "delay") && time.Since(start) < 30*time.Millisecond {
				t.Error("no delay")
			}
			// At once: who has an answer, or has lost it, finds the call in the log.
			all := log.All()
			if len(all) != 1 || fmt.Sprint(all[0].Status, " ", all[0].Fault) != c.logged || all[0].N != 1 || all[0].Object != "/v3/volumes" {
				t.Errorf("%s: logged %+v", c.rule, all)
			}
		}
		server.Close()
	}
	if expired != 2 {
		t.Error("expired", expired)
	}
}

func TestControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	listener, err := ListenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(path); err == nil {
		t.Error("two processes on one socket")
	}
	log, faults := &Log{}, NewFaults(1)
	log.Add(Call{Service: "volume", Method: "GET", Object: "/", Status: 200})
	mux := http.NewServeMux()
	Register(mux, log, faults)
	server := Server(mux)
	go server.Serve(listener)
	defer server.Close()
	ask := func(method, where, body string) (int, string) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, where, len(body), body)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(response.Body)
		return response.StatusCode, strings.TrimSpace(string(raw))
	}
	if code, body := ask("GET", "/calls", ""); code != 200 || !strings.Contains(body, `"n":1`) || !strings.Contains(body, `"path_or_object":"/"`) {
		t.Error(code, body)
	}
	if code, _ := ask("DELETE", "/calls", ""); code != 200 {
		t.Error(code)
	}
	if code, body := ask("GET", "/calls", ""); code != 200 || body != "[]" {
		t.Error(code, body)
	}
	if code, body := ask("POST", "/faults", `[{"kind":"reset"},{"kind":"expire","service":"volume"}]`); code != 200 || body != `{"ids":[1,2]}` {
		t.Error(code, body)
	}
	if code, body := ask("POST", "/faults", `{"seed":7}`); code != 200 || len(faults.All()) != 2 {
		t.Error(code, body)
	}
	if code, body := ask("POST", "/faults", `{"kind":"rest"}`); code != 400 || !strings.Contains(body, "unknown kind") {
		t.Error(code, body)
	}
	if code, _ := ask("PUT", "/faults", ""); code != 405 {
		t.Error(code)
	}
	if code, _ := ask("DELETE", "/faults", ""); code != 200 || len(faults.All()) != 0 {
		t.Error(code, faults.All())
	}
}
