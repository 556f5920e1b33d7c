package replay

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vmferry.dev/lab/calls"
)

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		recorded, actual string
		want             bool
	}{
		{"same", "same", true}, {"same", "other", false}, {"", "", true},
		{`<password>***</password>`, `<password>any</password>`, true},
		{`<password>***</password>`, `<password></password>`, true},
		{`<password>***</password>`, `<password>any`, false},
		{`a***b***c`, `a1b2c`, true}, {`a***b***c`, `a1c`, false}, {`***`, `anything`, true},
		{`ab***ba`, `aba`, false},
	} {
		if got := matches(c.recorded, c.actual); got != c.want {
			t.Errorf("%q and %q: %v", c.recorded, c.actual, got)
		}
	}
}

func get(path, answer string) *Exchange {
	return &Exchange{Service: OpenStack, Method: "GET", Path: path, Status: 200, Body: answer}
}

func TestAnswersComeInOrderAndTheLastStays(t *testing.T) {
	b := NewBook([]*Exchange{get("/v", "creating"), get("/other", "x"), get("/v", "creating"), get("/v", "available")})
	var got []string
	for i := 0; i < 5; i++ {
		got = append(got, b.Answer(OpenStack, "GET", "/v", "").Body)
	}
	if want := "[creating creating available available available]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	for _, ask := range [][3]string{{OpenStack, "POST", "/v"}, {VSphere, "GET", "/v"}, {OpenStack, "GET", "/v?x=1"}} {
		if b.Answer(ask[0], ask[1], ask[2], "") != nil {
			t.Errorf("%v has an answer", ask)
		}
	}
}

func TestWhatBrokeIsNotRepeatedForEver(t *testing.T) {
	b := NewBook([]*Exchange{get("/v", "fine"), {Service: OpenStack, Method: "GET", Path: "/v", Failure: "reset"}})
	b.Answer(OpenStack, "GET", "/v", "")
	if x := b.Answer(OpenStack, "GET", "/v", ""); x == nil || x.Failure == "" {
		t.Errorf("%+v", x)
	}
	if x := b.Answer(OpenStack, "GET", "/v", ""); x == nil || x.Failure != "" || x.Body != "fine" {
		t.Errorf("%+v", x)
	}
}

const (
	oldJob = "8f78bcd0-78aa-418f-afd4-43f392f58d7b"
	newJob = "11111111-2222-3333-4444-555555555555"
	third  = "99999999-2222-3333-4444-555555555555"
	volume = "0b86d8cd-3cd9-4437-8761-0c599a847fef"
)

// The client's own identifiers change from run to run, the server's do not.
func TestTheClientsOwnIdentifiers(t *testing.T) {
	made := &Exchange{Service: OpenStack, Method: "POST", Path: "/volumes", Status: 202, RequestBody: `{"job":"` + oldJob + `"}`,
		Body: `{"id":"` + volume + `","job":"` + oldJob + `"}`}
	again := &Exchange{Service: OpenStack, Method: "POST", Path: "/volumes", Status: 202, RequestBody: `{"job":"` + oldJob + `"}`, Body: "second"}
	b := NewBook([]*Exchange{made, again, get("/volumes/"+volume, `{"job":"`+oldJob+`"}`)})
	x := b.Answer(OpenStack, "POST", "/volumes", `{"job":"`+newJob+`"}`)
	if x == nil || x.Body != `{"id":"`+volume+`","job":"`+newJob+`"}` {
		t.Fatalf("%+v", x)
	}
	if x := b.Answer(OpenStack, "GET", "/volumes/"+volume, ""); x == nil || x.Body != `{"job":"`+newJob+`"}` {
		t.Errorf("%+v", x)
	}
	if x := b.Answer(OpenStack, "GET", "/volumes/"+third, ""); x != nil {
		t.Errorf("a volume that the server never named has an answer: %+v", x)
	}
	if x := b.Answer(OpenStack, "POST", "/volumes", `{"job":"`+third+`"}`); x != nil {
		t.Errorf("one recorded client became two: %+v", x)
	}
	if x := b.Answer(OpenStack, "POST", "/volumes", `{"job":"`+newJob+`"}`); x == nil || x.Body != "second" {
		t.Errorf("%+v", x)
	}
}

func TestHostAndProcessOfASnapshot(t *testing.T) {
	say := func(job, host string, pid int) string {
		return fmt.Sprintf("<description>vmferry job=%s cycle=1 host=%s pid=%d</description>", job, host, pid)
	}
	b := NewBook([]*Exchange{{Service: VSphere, Method: "POST", Path: "/sdk", Status: 200, RequestBody: say(oldJob, "vm", 77), Body: "made"},
		{Service: VSphere, Method: "POST", Path: "/sdk", Status: 200, RequestBody: "list", Body: say(oldJob, "vm", 77)}})
	if x := b.Answer(VSphere, "POST", "/sdk", say(newJob, "other", 4242)); x == nil || x.Body != "made" {
		t.Fatalf("%+v", x)
	}
	if x := b.Answer(VSphere, "POST", "/sdk", "list"); x == nil || x.Body != say(newJob, "other", 4242) {
		t.Errorf("%+v", x)
	}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "--record") {
		t.Errorf("an empty folder: %v", err)
	}
	write(t, dir, "000010-GET.json", `{"service":"openstack","method":"GET","path":"/b","request":{"headers":[],"body":""},"failure":{"fault":"timeout","message":"slow","may_have_acted":true}}`)
	write(t, dir, "000009-GET.json", `{"service":"openstack","method":"GET","path":"/a","request":{"headers":[],"body":""},"response":{"status":200,"headers":[["A","b"]],"body":{"base64":"/wA="}}}`)
	write(t, dir, ".sequence", "10")
	all, err := Load(dir)
	if err != nil || len(all) != 2 || all[0].Path != "/a" || all[0].Body != "\xff\x00" || all[0].Headers[0] != (Header{"A", "b"}) || all[1].Failure != "slow" {
		t.Fatalf("%+v %v", all, err)
	}
	for _, wrong := range []string{"", "{}", "[]", `{"service":"openstack","method":"GET","path":"/a","request":{"body":""}}`,
		`{"service":"openstack","method":"GET","path":"/a","request":{"body":7},"response":{"status":200,"headers":[],"body":""}}`,
		`{"service":"openstack","method":"GET","path":"/a","request":{"body":""},"response":{"status":7,"headers":[],"body":""}}`} {
		write(t, dir, "000011-GET.json", wrong)
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "000011-GET.json") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	if _, err := Load(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a missing folder is a recording")
	}
}

func login() *Exchange {
	return &Exchange{Service: OpenStack, Method: "POST", Path: "/identity/v3/auth/tokens", Status: 201,
		RequestBody: `{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"name":"Corp"},"name":"ada","password":"***"}}},"scope":{"project":{"domain":{"id":"d1"},"name":"move"}}}}`,
		Headers:     []Header{{"X-Subject-Token", "***"}, {"Content-Length", "9999"}, {"Content-Type", "application/json"}},
		Body: `{"token":{"catalog":[{"endpoints":[{"url":"https://nova.example:8774/v2.1"}]},` +
			`{"endpoints":[{"url":"http://[2001:db8::1]:8776/v3"}]}]}}`}
}

func TestLearn(t *testing.T) {
	f := Learn([]*Exchange{
		{Service: VSphere, Method: "POST", Path: "/sdk", Status: 200, RequestBody: `<Login xmlns="urn:vim25"><userName>a&amp;b</userName></Login>`},
		{Service: VSphere, Method: "POST", Path: "/sdk", Status: 200, RequestBody: `<inventoryPath>DC0/vm/x</inventoryPath>`, Body: `<apiType>HostAgent</apiType>`},
		login(), {Service: Metadata, Method: "GET", Path: "/m", Status: 200, Body: `{"uuid":"host"}`},
		{Service: OpenStack, Method: "POST", Path: "/servers/host/os-volume_attachments", Status: 200, RequestBody: `{"volumeAttachment":{"volumeId":"` + volume + `"}}`},
		get("/volumes/"+volume, `{"volume":{"id":"`+volume+`","size":3}}`),
	})
	if !f.ESXi || f.VMwareUser != "a&b" || f.VMPath != "/DC0/vm/x" || f.IdentityPath != "/identity/v3" || f.AuthType != "password" ||
		f.InstanceID != "host" || len(f.Volumes) != 1 || f.Volumes[0] != (Volume{volume, 3}) {
		t.Errorf("%+v", f)
	}
	if got, _ := json.Marshal(f.Auth); string(got) != `{"project_domain_id":"d1","project_name":"move","user_domain_name":"Corp","username":"ada"}` {
		t.Errorf("%s", got)
	}
	for from, want := range map[string]string{
		"https://nova.example:8774/v2.1":       "https://here/v2.1",
		`"href":"http://NOVA.example/v2.1/"`:   `"href":"https://here/v2.1/"`,
		"http://[2001:db8::1]:8776/v3/p":       "https://here/v3/p",
		"https://nova.example.org:8774/v2.1":   "https://nova.example.org:8774/v2.1",
		"https://docs.openstack.org/":          "https://docs.openstack.org/",
		"https://nova.example:8774":            "https://here",
		"nova.example:8774 without the scheme": "nova.example:8774 without the scheme",
	} {
		if got := f.readdressed(from, "https://here"); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

func TestTheServers(t *testing.T) {
	recorded := []*Exchange{login(), {Service: VSphere, Method: "POST", Path: "/sdk", Status: 200, RequestBody: "<Body><Login><password>***</password></Login></Body>",
		Headers: []Header{{"Set-Cookie", "vmware_soap_session=***; Path=/"}}, Body: "hello"},
		{Service: OpenStack, Method: "GET", Path: "/broken", Failure: "reset"}}
	p := &player{book: NewBook(recorded), facts: Learn(recorded), log: &calls.Log{}, from: "here", openstackBase: "https://127.0.0.1:1"}
	ask := func(service, method, path, body string) (*http.Response, string, error) {
		server := httptest.NewServer(p.serve(service))
		defer server.Close()
		request, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			return nil, "", err
		}
		defer response.Body.Close()
		raw, err := io.ReadAll(response.Body)
		return response, string(raw), err
	}
	response, body, err := ask(VSphere, "POST", "/sdk", "<Body><Login><password>whatever</password></Login></Body>")
	if err != nil || response.StatusCode != 200 || body != "hello" || response.Header.Get("Set-Cookie") != "vmware_soap_session=replayed-secret; Path=/" {
		t.Errorf("%+v %q %v", response, body, err)
	}
	response, body, err = ask(OpenStack, "POST", "/identity/v3/auth/tokens", strings.Replace(login().RequestBody, "***", "pw", 1))
	if err != nil || response.StatusCode != 201 || response.Header.Get("X-Subject-Token") != "replayed-secret" || !strings.Contains(body, "https://127.0.0.1:1/v2.1") {
		t.Errorf("%+v %q %v", response, body, err)
	}
	if _, _, err := ask(OpenStack, "GET", "/broken", ""); err == nil {
		t.Error("what broke in the recording does not break")
	}
	for _, c := range []struct{ service, method, path, body, says string }{
		{VSphere, "GET", "/folder/web01/web01-flat.vmdk?dcPath=DC0", "", "holds no bytes of disks"},
		{VSphere, "POST", "/sdk", "<Body><PowerOnVM_Task></PowerOnVM_Task></Body>", "no answer of vsphere to PowerOnVM_Task /sdk"},
		{OpenStack, "DELETE", "/volume/v3/x", "", "no answer of openstack to DELETE /volume/v3/x"},
		{Metadata, "GET", "/m", "", "no answer of metadata to GET /m"},
	} {
		response, body, err := ask(c.service, c.method, c.path, c.body)
		if err != nil || response.StatusCode != http.StatusNotFound || !strings.Contains(body, c.says) {
			t.Errorf("%+v: %+v %q %v", c, response, body, err)
		}
	}
	unknown := 0
	for _, line := range p.log.All() {
		if line.Fault == "not in the recording" {
			unknown++
		}
	}
	if unknown != 3 {
		t.Errorf("%d unknown calls in the log: %+v", unknown, p.log.All())
	}
}

func TestPasswordsStayOutOfTheLog(t *testing.T) {
	for _, sent := range []string{`<password>sesame</password>`, `{"password":"sesame"}`, `{"secret": "sesame"}`} {
		if shown := string(hidden.ReplaceAll([]byte(sent), []byte("${1}"+mask))); strings.Contains(shown, "sesame") {
			t.Error(shown)
		}
	}
}
