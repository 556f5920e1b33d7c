// The servers of a replay: TLS for vSphere and for OpenStack, plain HTTP for the
// metadata service, and a control socket that shows the calls.
package replay

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"vmferry.dev/lab/calls"
)

// Config is the file that --config names.
type Config struct {
	From          string `json:"from"` // the recording
	Listen        string `json:"listen"`
	VSphereCert   string `json:"vsphere_cert"`
	VSphereKey    string `json:"vsphere_key"`
	OpenStackCert string `json:"openstack_cert"`
	OpenStackKey  string `json:"openstack_key"`
	ControlSocket string `json:"control_socket"`
	ReadyFile     string `json:"ready_file"`
}

// Ready is what the ready file says.
type Ready struct {
	VSphere     string `json:"vsphere"`   // address:port
	OpenStack   string `json:"openstack"` // address:port
	MetadataURL string `json:"metadata_url"`
}

// Main runs `vmferry-lab replay --config FILE`: the servers alone.
func Main(args []string) error {
	flags := flag.NewFlagSet("replay", flag.ContinueOnError)
	file := flags.String("config", "", "settings as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *file == "" || flags.NArg() > 0 {
		return errors.New("needs --config FILE and nothing else")
	}
	raw, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	var config Config
	if err := json.Unmarshal(raw, &config); err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return Run(ctx, config)
}

// Run serves until the context ends.
func Run(ctx context.Context, config Config) error {
	exchanges, err := Load(config.From)
	if err != nil {
		return err
	}
	p := &player{book: NewBook(exchanges), facts: Learn(exchanges), log: &calls.Log{}, from: config.From}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	listen := func(cert, key string) (string, error) {
		l, err := net.Listen("tcp", config.Listen)
		if err != nil {
			return "", err
		}
		address := l.Addr().String()
		if cert != "" {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				l.Close()
				return "", err
			}
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		}
		listeners = append(listeners, l)
		return address, nil
	}
	var ready Ready
	if ready.VSphere, err = listen(config.VSphereCert, config.VSphereKey); err != nil {
		return err
	}
	if ready.OpenStack, err = listen(config.OpenStackCert, config.OpenStackKey); err != nil {
		return err
	}
	metadata, err := listen("", "")
	if err != nil {
		return err
	}
	ready.MetadataURL = "http://" + metadata + metadataPath(exchanges)
	p.openstackBase = "https://" + ready.OpenStack
	control, err := calls.ListenControl(config.ControlSocket)
	if err != nil {
		return err
	}
	listeners = append(listeners, control)

	servers := []*http.Server{calls.Server(p.serve(VSphere)), calls.Server(p.serve(OpenStack)), calls.Server(p.serve(Metadata)),
		calls.Server(p.control())}
	failed := make(chan error, len(servers))
	for i, server := range servers {
		server.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse the certificate
		go func(server *http.Server, at net.Listener) { failed <- server.Serve(at) }(server, listeners[i])
	}
	fmt.Printf("replay: %d exchanges from %s: %d of vSphere, %d of OpenStack, %d of the metadata service\n",
		len(exchanges), config.From, p.book.Count(VSphere), p.book.Count(OpenStack), p.book.Count(Metadata))
	if err = calls.WriteReady(config.ReadyFile, ready); err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	for _, server := range servers {
		ending, cancel := context.WithTimeout(context.Background(), time.Second)
		if server.Shutdown(ending) != nil {
			server.Close()
		}
		cancel()
	}
	os.Remove(config.ReadyFile)
	return err
}

// metadataPath is the path that was asked of the metadata service.
func metadataPath(exchanges []*Exchange) string {
	for _, x := range exchanges {
		if x.Service == Metadata {
			return x.Path
		}
	}
	return "/openstack/latest/meta_data.json"
}

type player struct {
	book          *Book
	facts         Facts
	log           *calls.Log
	from          string
	openstackBase string
}

const noBytes = "a recording holds no bytes of disks: vmferry --record keeps the calls to vSphere and OpenStack only. " +
	"A replay goes as far as the first byte of a disk; to copy one, use a lab (vmferry lab up) or the real source"

// longestBody is far above any call of a control API.
const longestBody = 64 << 20

func (p *player) serve(service string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line := calls.Call{Service: service, Method: r.Method, Object: r.URL.RequestURI()}
		defer func() { p.log.Add(line) }()
		body, err := io.ReadAll(io.LimitReader(r.Body, longestBody))
		if err != nil {
			line.Status = http.StatusBadRequest
			http.Error(w, "the request's body broke off", line.Status)
			return
		}
		if method := soapMethod(body); service == VSphere && method != "" {
			line.Method = method
		}
		if service == VSphere && (r.URL.Path == "/folder" || strings.HasPrefix(r.URL.Path, "/folder/")) {
			line.Status, line.Fault = http.StatusNotFound, "no bytes in a recording"
			log.Printf("replay: %s %s: %s", r.Method, r.URL.RequestURI(), noBytes)
			http.Error(w, noBytes, line.Status)
			return
		}
		x := p.book.Answer(service, r.Method, r.URL.RequestURI(), string(body))
		if x == nil {
			line.Status, line.Fault = http.StatusNotFound, "not in the recording"
			p.refuse(w, r, service, line.Method, body)
			return
		}
		if x.Failure != "" {
			line.Fault = "broken in the recording"
			calls.Reset(w)
			return
		}
		line.Status = x.Status
		p.answer(w, service, x)
	})
}

func (p *player) refuse(w http.ResponseWriter, r *http.Request, service, method string, body []byte) {
	call := method + " " + r.URL.RequestURI()
	said := "the recording in " + p.from + " has no answer of " + service + " to " + call
	shown := body
	if len(shown) > 600 {
		shown = shown[len(shown)-600:] // the end: a SOAP envelope begins alike for all
	}
	log.Printf("replay: not in the recording: %s %s; the body: %s", service, call, hidden.ReplaceAll(shown, []byte("${1}"+mask)))
	if service == VSphere {
		http.Error(w, said, http.StatusNotFound)
		return
	}
	calls.Reply(w, http.StatusNotFound, map[string]interface{}{"error": map[string]interface{}{"code": http.StatusNotFound, "title": "Not Found", "message": said}})
}

// hidden finds passwords that a client sent although any would do.
var hidden = regexp.MustCompile(`(?i)((?:password|secret)"?\s*[:=>]\s*"?)[^"<&\s]+`)

var soapBody = regexp.MustCompile(`<(?:[A-Za-z0-9-]+:)?Body[^>]*>\s*<(?:[A-Za-z0-9-]+:)?([A-Za-z_]+)`)

func soapMethod(body []byte) string {
	if match := soapBody.FindSubmatch(body); match != nil {
		return string(match[1])
	}
	return ""
}

// answer writes a recorded answer. Secrets that the recording left out become a
// word that everybody may know.
func (p *player) answer(w http.ResponseWriter, service string, x *Exchange) {
	body := x.Body
	if service == OpenStack {
		body = p.facts.readdressed(body, p.openstackBase)
	}
	for _, header := range x.Headers {
		value := header.Value
		switch strings.ToLower(header.Name) {
		case "content-length", "transfer-encoding", "connection", "keep-alive", "content-encoding", "date":
			continue // of the old connection, or no longer true
		case "set-cookie", "x-subject-token":
			value = strings.ReplaceAll(value, mask, stand)
		case "location":
			value = p.facts.readdressed(value, p.openstackBase)
		}
		w.Header().Add(header.Name, value)
	}
	w.WriteHeader(x.Status)
	io.WriteString(w, body)
}

// stand is the cookie and the token of every replay.
const stand = "replayed-secret"

func (p *player) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/calls", func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			calls.Reply(w, http.StatusOK, p.log.All())
		case http.MethodDelete:
			p.log.Clear()
			calls.Reply(w, http.StatusOK, struct{}{})
		default:
			calls.Refuse(w, http.StatusMethodNotAllowed, "/calls knows GET and DELETE")
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		calls.Refuse(w, http.StatusNotFound, "the control socket of a replay knows GET and DELETE /calls")
	})
	return mux
}
