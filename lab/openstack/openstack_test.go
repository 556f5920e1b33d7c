// Tests of the router, the quotas and the calls, without a listener or devices.
package openstack

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmferry.dev/lab/calls"
)

const password = "secret"

// bench is a cloud behind its script, with a token.
type bench struct {
	*testing.T
	cloud  *Cloud
	faults *calls.Faults
	log    *calls.Log
	front  http.Handler
	token  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	cloud, err := newCloud(Config{Dir: t.TempDir(), Devices: "file"}, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cloud.end)
	cloud.settings = settings{TokenTTLS: 3600, MaxDiskDevices: -1}
	b := &bench{T: t, cloud: cloud, faults: calls.NewFaults(1), log: &calls.Log{}}
	b.front = cloud.scriptable(b.log, b.faults)
	b.login()
	return b
}

func (b *bench) login() {
	b.Helper()
	answer := b.call("POST", "/identity/v3/auth/tokens", "", passwordAuth(password))
	if answer.Code != http.StatusCreated {
		b.Fatalf("no token: %d %s", answer.Code, answer.Body)
	}
	b.token = answer.Header().Get("X-Subject-Token")
}

func passwordAuth(secret string) string {
	return `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"lab","domain":{"name":"Default"},` +
		`"password":"` + secret + `"}}},"scope":{"project":{"name":"lab","domain":{"id":"default"}}}}}`
}

func (b *bench) call(method, path, version, body string) *httptest.ResponseRecorder {
	b.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("X-Auth-Token", b.token)
	if version != "" {
		r.Header.Set("OpenStack-API-Version", version)
	}
	w := httptest.NewRecorder()
	b.front.ServeHTTP(w, r)
	return w
}

// want calls and checks the status; it gives the decoded body.
func (b *bench) want(status int, method, path, version, body string) obj {
	b.Helper()
	answer := b.call(method, path, version, body)
	if answer.Code != status {
		b.Fatalf("%s %s: %d instead of %d: %s", method, path, answer.Code, status, answer.Body)
	}
	read := obj{}
	if answer.Body.Len() > 0 {
		if err := json.Unmarshal(answer.Body.Bytes(), &read); err != nil {
			b.Fatalf("%s %s: %v: %s", method, path, err, answer.Body)
		}
	}
	return read
}

func (b *bench) until(what func() bool) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		b.cloud.mu.Lock()
		done := what()
		b.cloud.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			b.Fatal("waited in vain")
		}
	}
}

func (b *bench) volume(body string) *volume {
	b.Helper()
	id := text(object(b.want(202, "POST", "/volume/v3/volumes", "", body)["volume"])["id"])
	v := b.cloud.volume(id)
	b.until(func() bool { return v.status == "available" })
	return v
}

func TestTheTableIsWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range table {
		name := r.service + " " + r.method + " " + r.path + " " + r.action
		if seen[name] {
			t.Errorf("%s stands there twice", name)
		}
		seen[name] = true
		if r.act == nil || r.about == "" || !contains(services, r.service) {
			t.Errorf("%s is not complete", name)
		}
		for _, field := range append(append([]string{}, r.query...), r.fields...) {
			if at := strings.IndexByte(field, '@'); at >= 0 {
				if _, valid := parseMicroversion(field[at+1:]); !valid {
					t.Errorf("%s: %s names no microversion", name, field)
				}
			}
			if r.action != "" && !strings.HasPrefix(field, r.action) {
				t.Errorf("%s: %s is not below the action", name, field)
			}
		}
	}
}

func TestTheDocumentedCallsAreTheModelledOnes(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "lab-openstack-calls.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != ListCalls() {
		t.Error("docs/lab-openstack-calls.md differs from what `vmferry-lab openstack --list-calls` prints: print it again")
	}
}

func TestWhatIsNotModelledIsRefusedLoudly(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		status                             int
		method, path, version, body, names string
	}{
		{404, "GET", "/orchestration/v1", "", "", "path /orchestration/v1"},
		{404, "GET", "/volumes", "", "", "path /volumes"},
		{501, "GET", "/volume/v3/snapshots", "", "", "GET /volume/v3/snapshots"},
		{501, "PATCH", "/volume/v3/volumes", "", "", "PATCH /volume/v3/volumes"},
		{501, "GET", "/volume/v3/volumes?group_id=1", "", "", `query parameter \"group_id\"`},
		{501, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1,"colour":1}}`, `body field \"volume.colour\"`},
		{501, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1,"name":{"a":1}}}`, `body field \"volume.name.a\"`},
		{501, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1},"extra":1}`, `body field \"extra\"`},
		{501, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1,"snapshot_id":"1"}}`, "snapshot_id"},
		{501, "POST", "/volume/v3/volumes/x/action", "", `{"os-retype":{}}`, "action os-retype"},
		{501, "POST", "/volume/v3/volumes/x/action", "", `{"os-extend":{},"os-retype":{}}`, "action os-extend, os-retype"},
		{501, "POST", "/volume/v3/volumes/x/action", "", `{"os-extend":{"force":1}}`, `os-extend.force`},
		{501, "GET", "/compute/v2.1/servers?tags=a", "compute 2.25", "", "below microversion 2.26"},
		{501, "GET", "/compute/v2/servers", "", "", "GET /compute/v2/servers"},
		{501, "POST", "/compute/v2.1/servers", "compute 2.52",
			`{"server":{"name":"a","flavorRef":"1","networks":[],"block_device_mapping_v2":[{"source_type":"image","uuid":"1"}]}}`, "image"},
	} {
		answer := b.call(c.method, c.path, c.version, c.body)
		if answer.Code != c.status || !strings.Contains(answer.Body.String(), "lab/openstack does not model") ||
			!strings.Contains(answer.Body.String(), c.names) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, answer.Code, answer.Body)
		}
	}
	if len(b.cloud.volumes) != 0 {
		t.Error("a refused call made a volume")
	}
}

func TestTokensAreAskedFor(t *testing.T) {
	b := newBench(t)
	good := b.token
	for _, r := range table {
		if r.open {
			continue
		}
		path := "/" + r.service + strings.NewReplacer("{", "", "}", "").Replace(r.path)
		body := ""
		if r.action != "" {
			body = `{"` + r.action + `":null}`
		}
		for _, bad := range []string{"", "gAAAAAnothing"} {
			b.token = bad
			if answer := b.call(r.method, path, "", body); answer.Code != http.StatusUnauthorized ||
				answer.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s without a token: %d", r.method, path, answer.Code)
			}
		}
	}
	b.token = good
	b.cloud.tokens[good].expires = time.Now()
	b.want(401, "GET", "/volume/v3/volumes", "", "")
	if answer := b.call("POST", "/identity/v3/auth/tokens", "", passwordAuth("wrong")); answer.Code != 401 {
		t.Errorf("a wrong password: %d", answer.Code)
	}
}

func TestMicroversions(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		path, version string
		status        int
		header        string
	}{
		{"/compute/v2.1/servers", "", 200, "compute 2.1"},
		{"/compute/v2.1/servers", "compute latest", 200, "compute 2.93"},
		{"/compute/v2.1/servers", "volume 3.70, compute 2.60", 200, "compute 2.60"},
		{"/compute/v2.1/servers", "compute 2.94", 406, ""},
		{"/compute/v2.1/servers", "compute 2.01", 400, ""},
		{"/volume/v3/volumes", "volume 3.70", 200, "volume 3.70"},
		{"/volume/v3/volumes", "volume 4.0", 406, ""},
		{"/volume/v3/volumes", "compute 2.94", 200, "volume 3.0"},
		{"/network/v2.0/ports", "network 9.9", 200, ""},
	} {
		answer := b.call("GET", c.path, c.version, "")
		if answer.Code != c.status || answer.Header().Get("OpenStack-API-Version") != c.header {
			t.Errorf("%s at %q: %d %q", c.path, c.version, answer.Code, answer.Header().Get("OpenStack-API-Version"))
		}
	}
	refused := b.want(400, "POST", "/compute/v2.1/servers", "compute 2.51", `{"server":{"name":"x","tags":["a"]}}`)
	if !strings.Contains(text(object(refused["badRequest"])["message"]), "'tags' was unexpected") {
		t.Error(refused)
	}
}

func TestVolumeQuota(t *testing.T) {
	b := newBench(t)
	b.cloud.quota.Gigabytes, b.cloud.quota.Volumes = 10, 2
	b.volume(`{"volume":{"size":6}}`)
	refused := b.want(413, "POST", "/volume/v3/volumes", "", `{"volume":{"size":5}}`)
	wanted := "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota. " +
		"Requested 5G, quota is 10G and 6G has been consumed."
	if text(object(refused["overLimit"])["message"]) != wanted {
		t.Error(refused)
	}
	v := b.volume(`{"volume":{"size":4}}`)
	refused = b.want(413, "POST", "/volume/v3/volumes/"+v.id+"/action", "", `{"os-extend":{"new_size":5}}`)
	if !strings.Contains(text(object(refused["overLimit"])["message"]), "Requested 1G, quota is 10G and 10G") {
		t.Error(refused)
	}
	b.cloud.quota.Gigabytes = -1
	refused = b.want(413, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1}}`)
	if text(object(refused["overLimit"])["message"]) !=
		"VolumeLimitExceeded: Maximum number of volumes allowed (2) exceeded for quota 'volumes'." {
		t.Error(refused)
	}
	b.want(202, "DELETE", "/volume/v3/volumes/"+v.id, "", "")
	b.until(func() bool { return b.cloud.volume(v.id) == nil })
	b.volume(`{"volume":{"size":400}}`)
}

func TestServerQuota(t *testing.T) {
	b := newBench(t) // the conversion host counts: 1 instance, 1 core, 512 MiB
	v := b.volume(`{"volume":{"size":1}}`)
	b.want(200, "POST", "/volume/v3/volumes/"+v.id+"/action", "", `{"os-set_bootable":{"bootable":true}}`)
	server := `{"server":{"name":"a","flavorRef":"3","networks":"none","block_device_mapping_v2":[{"uuid":"` + v.id +
		`","source_type":"volume","destination_type":"volume","boot_index":0}]}}`
	for _, c := range []struct {
		limit quota
		text  string
	}{
		{quota{Instances: 1, Cores: -1, RAM: -1}, "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances"},
		{quota{Instances: -1, Cores: 2, RAM: 4096}, "Quota exceeded for cores, ram: Requested 2, 4096, but already used 1, 512 of 2, 4096 cores, ram"},
	} {
		b.cloud.quota = c.limit
		refused := b.want(403, "POST", "/compute/v2.1/servers", "compute 2.37", server)
		if text(object(refused["forbidden"])["message"]) != c.text {
			t.Error(refused)
		}
	}
	if v.status != "available" || len(b.cloud.servers) != 1 {
		t.Error("a refused server took something")
	}
	b.cloud.quota = quota{Gigabytes: -1, Volumes: -1, Instances: 2, Cores: 3, RAM: 4608}
	b.want(202, "POST", "/compute/v2.1/servers", "compute 2.37", server)
	b.until(func() bool { return v.status == "in-use" })
}

func TestMetadataFilterReadsDictionaries(t *testing.T) {
	for source, wanted := range map[string]map[string]string{
		`{}`:                        {},
		`{'a': 'b'}`:                {"a": "b"},
		`{"a":"b", "c": "d"}`:       {"a": "b", "c": "d"},
		`{u'a': u'b',}`:             {"a": "b"},
		`{'it\'s': "a \"quote\""}`:  {"it's": `a "quote"`},
		`{'n': 2000}`:               {"n": "2000"},
		`{'a' : 'b\\c' , 'd':'e'} `: {"a": `b\c`, "d": "e"},
		`a`:                         nil, `{`: nil, `{'a'}`: nil, `{'a':'b'`: nil, `{'a':'b'} x`: nil, `{'a':'b' 'c':'d'}`: nil, ``: nil,
		`{'a':['b']}`: nil, `{'a':'b}`: nil,
	} {
		read, valid := parseDict(source)
		if valid != (wanted != nil) || len(read) != len(wanted) && valid {
			t.Errorf("%s: %v %v", source, read, valid)
		}
		for key, value := range wanted {
			if read[key] != value {
				t.Errorf("%s: %v", source, read)
			}
		}
	}
}

func TestScriptedFaults(t *testing.T) {
	b := newBench(t)
	script := func(rule calls.Rule) {
		rule.Count, rule.Probability = 1, 1
		if _, err := b.faults.Add(rule); err != nil {
			t.Fatal(err)
		}
	}
	script(calls.Rule{Service: "volume", Method: "POST", Kind: calls.KindHTTP, Status: 413, RetryAfter: 3, Message: "slow down"})
	answer := b.call("POST", "/volume/v3/volumes", "", `{"volume":{"size":1}}`)
	if answer.Code != 413 || answer.Header().Get("Retry-After") != "3" || !strings.Contains(answer.Body.String(), "slow down") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	script(calls.Rule{Service: "volume", Method: "POST", Kind: calls.KindFault, Fault: "error"})
	b.want(202, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1}}`)
	b.until(func() bool { return len(b.cloud.volumes) == 1 && b.cloud.volumes[0].status == "error" })
	script(calls.Rule{Service: "volume", Kind: calls.KindExpire})
	b.want(401, "GET", "/volume/v3/volumes", "", "")
	b.login()
	b.want(200, "GET", "/volume/v3/volumes", "", "")
	script(calls.Rule{Service: "network", Kind: calls.KindHTTP, Status: 409})
	if refused := b.want(409, "GET", "/network/v2.0/ports", "", ""); object(refused["NeutronError"])["type"] != "Conflict" {
		t.Error(refused)
	}
	for _, call := range b.log.All() {
		if call.Service == "volume" && call.Status == 0 {
			t.Errorf("a call without status: %+v", call)
		}
	}
}

func TestAttachedFilesShowTheirIdentity(t *testing.T) {
	b := newBench(t)
	v := b.volume(`{"volume":{"size":1}}`)
	path := "/compute/v2.1/servers/" + b.cloud.ids.instance + "/os-volume_attachments"
	b.want(200, "POST", path, "", `{"volumeAttachment":{"volumeId":"`+v.id+`"}}`)
	b.until(func() bool { return v.status == "in-use" })
	link := filepath.Join(b.cloud.config.Dir, "by-id", "virtio-"+v.id[:20])
	if target, err := os.Readlink(link); err != nil || target != v.file {
		t.Errorf("%s leads to %s: %v", link, target, err)
	}
	entries, err := os.ReadDir(filepath.Join(b.cloud.config.Dir, "identity"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v %v", entries, err)
	}
	about, err := os.ReadFile(filepath.Join(b.cloud.config.Dir, "identity", entries[0].Name()))
	if err != nil || !bytes.Equal(about, []byte("serial="+v.id[:20]+"\nbytes=1073741824\n")) {
		t.Errorf("%s %v", about, err)
	}
	b.want(409, "POST", "/compute/v2.1/servers/"+b.cloud.ids.instance+"/action", "", `{"os-start":null}`)
	b.want(202, "DELETE", path+"/"+v.id, "", "")
	b.until(func() bool { return v.status == "available" })
	if _, err := os.Lstat(link); !os.IsNotExist(err) {
		t.Error("the link stays")
	}
}

func TestAddressesOfPorts(t *testing.T) {
	b := newBench(t)
	n := b.cloud.networks[0]
	n.subnets[0].first, n.subnets[0].last = "192.0.2.2", "192.0.2.4" // .2 is the conversion host's
	port := `{"port":{"network_id":"` + n.id + `"`
	first := object(b.want(201, "POST", "/network/v2.0/ports", "", port+`}}`)["port"])
	b.want(201, "POST", "/network/v2.0/ports", "", port+`}}`)
	refused := b.want(409, "POST", "/network/v2.0/ports", "", port+`}}`)
	if object(refused["NeutronError"])["type"] != "IpAddressGenerationFailure" {
		t.Error(refused)
	}
	b.want(204, "DELETE", "/network/v2.0/ports/"+text(first["id"]), "", "")
	again := object(b.want(201, "POST", "/network/v2.0/ports", "", port+`}}`)["port"])
	if text(object(list(again["fixed_ips"])[0])["ip_address"]) != "192.0.2.3" {
		t.Error(again)
	}
	for address, kind := range map[string]string{"192.0.2.0": "InvalidIpForNetwork", "192.0.2.255": "InvalidIpForNetwork",
		"192.0.3.1": "InvalidIpForNetwork", "192.0.2.2": "IpAddressAlreadyAllocated"} {
		answer := b.call("POST", "/network/v2.0/ports", "", port+`,"fixed_ips":[{"ip_address":"`+address+`"}]}}`)
		if !strings.Contains(answer.Body.String(), `"`+kind+`"`) {
			t.Errorf("%s: %d %s", address, answer.Code, answer.Body)
		}
	}
	// Outside the pool, inside the subnet: allowed.
	b.want(201, "POST", "/network/v2.0/ports", "", port+`,"fixed_ips":[{"ip_address":"192.0.2.200"}]}}`)
}

func TestAddressesOfBothFamilies(t *testing.T) {
	b := newBench(t)
	dual, slaac, lab := b.cloud.networks[3], b.cloud.networks[4], b.cloud.networks[0]
	v4, v6 := dual.subnets[0].id, dual.subnets[1].id
	answer := func(n *network, fields string) string {
		return b.call("POST", "/network/v2.0/ports", "", `{"port":{"network_id":"`+n.id+`"`+fields+`}}`).Body.String()
	}
	given := func(n *network, fields string) (all []string) {
		var made struct {
			Port struct {
				FixedIPs []struct {
					IPAddress string `json:"ip_address"`
				} `json:"fixed_ips"`
			}
		}
		body := answer(n, fields)
		if json.Unmarshal([]byte(body), &made) != nil || made.Port.FixedIPs == nil {
			t.Error(fields, body)
		}
		for _, ip := range made.Port.FixedIPs {
			all = append(all, ip.IPAddress)
		}
		return all
	}
	mac := `,"mac_address":"00:50:56:00:00:01"`
	for _, c := range []struct {
		n            *network
		fields, want string
	}{
		{dual, ``, "198.18.1.2 2001:db8:1::2"},
		{dual, `,"fixed_ips":[{"subnet_id":"` + v6 + `"},{"ip_address":"2001:DB8:1:0::3"}]`, "2001:db8:1::3 2001:db8:1::4"},
		{dual, `,"fixed_ips":[{"subnet_id":"` + v4 + `"}]`, "198.18.1.3"},
		{dual, `,"fixed_ips":[]`, ""},
		{slaac, `,"mac_address":"00:50:56:00:00:04","fixed_ips":[]`, "2001:db8:2:0:250:56ff:fe00:4"},
		{slaac, mac, "198.18.2.2 2001:db8:2:0:250:56ff:fe00:1"},
		// It comes by itself, beside what was asked for.
		{slaac, `,"mac_address":"00:50:56:00:00:02","fixed_ips":[{"ip_address":"198.18.2.9"}]`, "198.18.2.9 2001:db8:2:0:250:56ff:fe00:2"},
		{slaac, `,"mac_address":"00:50:56:00:00:03","fixed_ips":[{"subnet_id":"` + slaac.subnets[1].id + `"}]`, "2001:db8:2:0:250:56ff:fe00:3"},
	} {
		if got := strings.Join(given(c.n, c.fields), " "); got != c.want {
			t.Errorf("%s: %s", c.fields, got)
		}
	}
	for fields, kind := range map[string]string{
		`"ip_address":"2001:db8:1::2"`:                          "IpAddressAlreadyAllocated",
		`"ip_address":"2001:db8:3::2"`:                          "InvalidIpForNetwork",
		`"ip_address":"2001:db8:1::9","subnet_id":"` + v4 + `"`: "InvalidIpForSubnet",
		`"ip_address":"198.18.1.9","subnet_id":"` + v6 + `"`:    "InvalidIpForSubnet",
		`"subnet_id":"` + lab.subnets[0].id + `"`:               "InvalidInput",
		``: "InvalidInput",
		`"ip_address":"2001:db8:1::9"},{"ip_address":"2001:DB8:1::9"`: "IpAddressAlreadyAllocated",
	} {
		if said := answer(dual, `,"fixed_ips":[{`+fields+`}]`); !strings.Contains(said, `"`+kind+`"`) {
			t.Errorf("%s: %s", fields, said)
		}
	}
	if said := answer(slaac, `,"fixed_ips":[{"ip_address":"2001:db8:2::9"}]`); !strings.Contains(said, `"AllocationOnAutoAddressSubnet"`) {
		t.Error(said)
	}
	b.cloud.settings.IPAvailability = availabilityShown
	if said := b.call("GET", "/network/v2.0/network-ip-availabilities/"+dual.id, "", "").Body.String(); !strings.Contains(said, `"total_ips":18446744073709551614,"used_ips":3}`) {
		t.Error(said)
	}
	// One family without a free address is enough for a port that wants any.
	dual.subnets[1].last = "2001:db8:1::4"
	if said := answer(dual, ``); !strings.Contains(said, `"IpAddressGenerationFailure"`) {
		t.Error(said)
	}
}

// onSocket does one request on the control socket's handler.
func (b *bench) onSocket(method, path, body string) *httptest.ResponseRecorder {
	b.Helper()
	w := httptest.NewRecorder()
	b.cloud.control(b.log, b.faults).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestSecretsListsEveryToken(t *testing.T) {
	b := newBench(t)
	first := b.token
	b.onSocket("POST", "/tokens/revoke", "")
	b.login()
	answer := b.onSocket("GET", "/secrets", "")
	var all []string
	if err := json.Unmarshal(answer.Body.Bytes(), &all); err != nil || len(all) != 2 || all[0] != first || all[1] != b.token {
		t.Errorf("%d %s, want %s and %s", answer.Code, answer.Body, first, b.token)
	}
	if answer := b.onSocket("POST", "/secrets", ""); answer.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /secrets: %d", answer.Code)
	}
}

func TestAnAdministratorReplacesMetadata(t *testing.T) {
	b := newBench(t)
	v := b.volume(`{"volume":{"size":1,"name":"a","metadata":{"old":"yes"}}}`)
	if answer := b.onSocket("POST", "/volumes/"+v.id+"/metadata", `{"new":"1","other":"2"}`); answer.Code != http.StatusOK {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
	seen := object(b.want(200, "GET", "/volume/v3/volumes/"+v.id+"/metadata", "", "")["metadata"])
	if len(seen) != 2 || seen["new"] != "1" || seen["other"] != "2" {
		t.Errorf("%v", seen)
	}
	for _, wrong := range []struct {
		path, body string
		status     int
	}{
		{"/volumes/" + v.id + "/metadata", `{"new":1}`, 400}, {"/volumes/" + v.id + "/metadata", ``, 400},
		{"/volumes/" + v.id, `{}`, 404}, {"/volumes/nobody/metadata", `{}`, 404},
	} {
		if answer := b.onSocket("POST", wrong.path, wrong.body); answer.Code != wrong.status {
			t.Errorf("%s %s: %d %s", wrong.path, wrong.body, answer.Code, answer.Body)
		}
	}
	if answer := b.onSocket("POST", "/volumes/"+v.id+"/metadata", `{}`); answer.Code != http.StatusOK || len(v.metadata) != 0 {
		t.Errorf("%d, left: %v", answer.Code, v.metadata)
	}
}

func TestCinderSaysWhyNoBackEndTookAVolume(t *testing.T) {
	b := newBench(t)
	failed := func() string {
		id := text(object(b.want(202, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1,"volume_type":"nowhere"}}`)["volume"])["id"])
		b.until(func() bool { return b.cloud.volume(id).status == "error" })
		return id
	}
	list := func(query string) []interface{} {
		return b.want(200, "GET", "/volume/v3/messages"+query, "volume 3.5", "")["messages"].([]interface{})
	}
	b.volume(`{"volume":{"size":1}}`)
	first, second := failed(), failed()
	about := object(list("?resource_uuid=" + first)[0])
	if len(list("?resource_uuid="+first)) != 1 || text(about["event_id"]) != "VOLUME_VOLUME_001_003" ||
		text(about["user_message"]) != "schedule allocate volume:Could not find any available weighted backend." {
		t.Error(about)
	}
	if all := list(""); len(all) != 2 || text(object(all[0])["resource_uuid"]) != second {
		t.Error("not newest first: ", all)
	}
	if page := b.want(200, "GET", "/volume/v3/messages?limit=1", "volume 3.5", ""); page["messages_links"] == nil {
		t.Error(page)
	}
	one := "/volume/v3/messages/" + text(about["id"])
	if shown := object(b.want(200, "GET", one, "volume 3.3", "")["message"]); text(shown["id"]) != text(about["id"]) {
		t.Error(shown)
	}
	b.want(204, "DELETE", one, "volume 3.3", "")
	b.want(404, "GET", one, "volume 3.3", "")
	b.want(404, "GET", "/volume/v3/messages", "volume 3.2", "")
}

func TestOnlyTheAdministratorMakesFlavors(t *testing.T) {
	b := newBench(t)
	const wish = `{"flavor":{"name":"mine","vcpus":1,"ram":64,"disk":0}}`
	b.want(403, "POST", "/compute/v2.1/flavors", "", wish)
	b.want(403, "DELETE", "/compute/v2.1/flavors/1", "", "")
	answer := b.call("POST", "/identity/v3/auth/tokens", "", strings.Replace(passwordAuth(password), `"lab"`, `"admin"`, 1))
	if !strings.Contains(answer.Body.String(), `"name":"admin"`) {
		t.Fatal(answer.Body)
	}
	b.token = answer.Header().Get("X-Subject-Token")
	made := object(b.want(200, "POST", "/compute/v2.1/flavors", "", wish)["flavor"])
	b.want(202, "DELETE", "/compute/v2.1/flavors/"+text(made["id"]), "", "")
	b.want(404, "DELETE", "/compute/v2.1/flavors/"+text(made["id"]), "", "")
	wrong := strings.Replace(passwordAuth("wrong"), `"lab"`, `"admin"`, 1)
	if answer := b.call("POST", "/identity/v3/auth/tokens", "", wrong); answer.Code != 401 {
		t.Errorf("a wrong password: %d", answer.Code)
	}
}
