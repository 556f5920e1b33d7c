// Replay: the folder of a lab, with one server that answers from a recording in
// the place of the two.
package environment

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"vmferry.dev/lab/replay"
)

const (
	replayName     = "replay"
	replayPassword = "replay"
)

func mainReplay(ctx context.Context, args []string, out io.Writer) error {
	flags := newFlags("replay", "--from DIR [--dir LABDIR]")
	from := flags.String("from", "", "the recording: the DIR of vmferry --record DIR")
	dir := flags.String("dir", DefaultDir(), "the folder for lab.json, env.sh and the log, as for up")
	deadline := flags.Duration("deadline", 60*time.Second, "how long the servers may take to answer")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *from == "" {
		flags.Usage()
		return usageError("needs --from DIR, the folder of a recording")
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *deadline)
	defer cancel()
	lab, facts, err := Replay(ctx, *from, *dir, executable, out)
	if err != nil {
		return err
	}
	return introduceReplay(lab, facts, out)
}

// Replay starts the servers of a recording.
func Replay(ctx context.Context, from, dir, executable string, out io.Writer) (*Lab, replay.Facts, error) {
	dir, err := checkDir(dir)
	if err != nil {
		return nil, replay.Facts{}, err
	}
	if from, err = filepath.Abs(from); err != nil {
		return nil, replay.Facts{}, err
	}
	exchanges, err := replay.Load(from)
	if err != nil {
		return nil, replay.Facts{}, err
	}
	facts := replay.Learn(exchanges)
	lab, err := within(dir, out, func() (*Lab, error) { return raiseReplay(ctx, from, dir, executable, facts) })
	return lab, facts, err
}

func raiseReplay(ctx context.Context, from, dir, executable string, facts replay.Facts) (*Lab, error) {
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, folder := range []string{"log", "by-id", "identity", "volumes"} {
		if err := os.Mkdir(in(folder), 0o700); err != nil {
			return nil, err
		}
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	if err := writePrivate(in("ca.pem"), ca.pem); err != nil {
		return nil, err
	}
	if err := writePrivate(in("vcenter.password"), []byte(replayPassword)); err != nil {
		return nil, err
	}
	p := replayPart(dir)
	lab := &Lab{Dir: dir, Profile: "vcenter", Recording: from}
	if facts.ESXi {
		lab.Profile = "esxi"
	}
	lab.VCenter = VCenter{Username: facts.VMwareUser, PasswordFile: in("vcenter.password"), CA: in("ca.pem"), Control: p.control(),
		VMPath: facts.VMPath, MACs: []string{}}
	lab.OpenStack = OpenStack{Cloud: "lab", CloudsYAML: in("clouds.yaml"), CA: in("ca.pem"), Control: p.control(),
		InstanceID: facts.InstanceID, ByID: in("by-id"), IdentityDir: in("identity"), VolumesDir: in("volumes")}
	if lab.VCenter.SHA256, err = ca.issue(dir, "vcenter"); err != nil {
		return nil, err
	}
	if _, err := ca.issue(dir, "openstack"); err != nil {
		return nil, err
	}
	for _, v := range facts.Volumes {
		if err := standIn(lab.OpenStack, v); err != nil {
			return nil, err
		}
	}
	err = writeJSON(p.config(), replay.Config{From: from, Listen: "127.0.0.1:0", VSphereCert: in("vcenter.crt"), VSphereKey: in("vcenter.key"),
		OpenStackCert: in("openstack.crt"), OpenStackKey: in("openstack.key"), ControlSocket: p.control(), ReadyFile: p.ready()})
	if err != nil {
		return nil, err
	}
	c, err := p.start(executable)
	if err != nil {
		return nil, err
	}
	// When something below fails, within ends the server by its pid file.
	var ready replay.Ready
	if err := c.awaitReady(ctx, io.Discard, func(raw []byte) error { return json.Unmarshal(raw, &ready) }); err != nil {
		return nil, err
	}
	lab.VCenter.PID, lab.OpenStack.PID = c.pid, c.pid
	lab.VCenter.Endpoint = ready.VSphere
	lab.OpenStack.AuthURL = "https://" + ready.OpenStack + facts.IdentityPath
	lab.OpenStack.MetadataURL = ready.MetadataURL
	if err := writePrivate(lab.OpenStack.CloudsYAML, []byte(replayClouds(lab, facts))); err != nil {
		return nil, err
	}
	if err := writePrivate(in("env.sh"), []byte(environmentScript(lab))); err != nil {
		return nil, err
	}
	return lab, writeJSON(in(labName), lab)
}

// standIn puts an empty file in the place of a volume's device, so that a replay
// gets beyond the attach.
func standIn(s OpenStack, v replay.Volume) error {
	if strings.ContainsAny(v.ID, "/\n\x00") || len(v.ID) < 20 || v.GiB > 1<<20 {
		return fmt.Errorf("the recording names a volume %q of %d GiB, which cannot be", v.ID, v.GiB)
	}
	path := filepath.Join(s.VolumesDir, "volume-"+v.ID)
	if err := writePrivate(path, nil); err != nil {
		return err
	}
	bytes := v.GiB << 30
	if err := os.Truncate(path, bytes); err != nil {
		return err
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		return err
	}
	serial := v.ID[:20]
	identity := fmt.Sprintf("serial=%s\nbytes=%d\n", serial, bytes)
	if err := writePrivate(filepath.Join(s.IdentityDir, fmt.Sprintf("%d-%d", stat.Dev, stat.Ino)), []byte(identity)); err != nil {
		return err
	}
	return os.Symlink(path, filepath.Join(s.ByID, "virtio-"+serial))
}

func replayClouds(lab *Lab, facts replay.Facts) string {
	auth := map[string]string{"auth_url": lab.OpenStack.AuthURL}
	for name, value := range facts.Auth {
		auth[name] = value
	}
	kind := facts.AuthType
	switch kind {
	case "v3applicationcredential":
		auth["application_credential_secret"] = replayPassword
	case "token":
		auth["token"] = replayPassword
	default:
		kind = "password"
		auth["password"] = replayPassword
	}
	names := make([]string, 0, len(auth))
	for name := range auth {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	fmt.Fprintf(&b, "clouds:\n  %s:\n    auth_type: %s\n    auth:\n", lab.OpenStack.Cloud, kind)
	for _, name := range names {
		// A JSON string is a YAML one.
		value, err := json.Marshal(auth[name])
		if err != nil {
			panic(err) // a string
		}
		fmt.Fprintf(&b, "      %s: %s\n", name, value)
	}
	fmt.Fprintf(&b, "    identity_api_version: \"3\"\n    cacert: \"%s\"\n    verify: true\n", lab.OpenStack.CA)
	return b.String()
}

// introduceReplay prints what is there and what to try.
func introduceReplay(lab *Lab, facts replay.Facts, out io.Writer) error {
	dir := ""
	if lab.Dir != defaultDir {
		dir = " --dir " + quote(lab.Dir)
	}
	user := lab.VCenter.Username
	if user == "" {
		user = "nobody" // no login was recorded
	}
	source := fmt.Sprintf("--vmware-endpoint %s --vmware-username %s --vmware-password-file %s --vmware-ca %s",
		lab.VCenter.Endpoint, quote(user), quote(lab.VCenter.PasswordFile), quote(lab.VCenter.CA))
	_, err := fmt.Fprintf(out, `A replay of %[1]s is up.

  source     https://%[2]s  as %[3]s, any password
  target     %[4]s  (cloud "%[5]s" in %[6]s)
  log        %[7]s  (names each call that is not in the recording)

It answers what was recorded and nothing else; the bytes of disks are not in a recording.
%[8]d volumes were attached while recording: empty files stand for them in %[9]s.

The environment for vmferry, openstack and the like:

  . %[10]s

Then try:

  vmferry inventory %[11]s
  # every call that came
  vmferry lab ctl%[12]s vcenter GET /calls
  vmferry lab down%[12]s
`, lab.Recording, lab.VCenter.Endpoint, user, lab.OpenStack.AuthURL, lab.OpenStack.Cloud, lab.OpenStack.CloudsYAML,
		replayPart(lab.Dir).log(), len(facts.Volumes), lab.OpenStack.ByID, quote(lab.Dir+"/env.sh"), source, dir)
	return err
}
