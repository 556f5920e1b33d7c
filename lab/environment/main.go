// The command lines of up, replay, down, status and ctl.
package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"vmferry.dev/lab/guest"
)

// Main runs one of the subcommands; args[0] is its name.
func Main(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch args[0] {
	case "up":
		return mainUp(ctx, args[1:], os.Stdout)
	case "down":
		flags := newFlags("down", "[--dir DIR] [--keep]")
		dir := flags.String("dir", DefaultDir(), "the lab's folder")
		keep := flags.Bool("keep", false, "keep the folder's files")
		if err := parse(flags, args[1:]); err != nil {
			return err
		}
		return Down(*dir, *keep, os.Stdout)
	case "status":
		flags := newFlags("status", "[--dir DIR] [--json]")
		dir := flags.String("dir", DefaultDir(), "the lab's folder")
		asJSON := flags.Bool("json", false, "print JSON")
		if err := parse(flags, args[1:]); err != nil {
			return err
		}
		return Status(ctx, *dir, *asJSON, os.Stdout)
	case "replay":
		return mainReplay(ctx, args[1:], os.Stdout)
	case "ctl":
		return mainControl(ctx, args[1:], os.Stdout)
	case "folder":
		return mainFolder(ctx, args[1:])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// UsageError is a command line that makes no sense.
type UsageError struct{ error }

func (e UsageError) Unwrap() error { return e.error }

func usageError(format string, arguments ...any) error {
	return UsageError{fmt.Errorf(format, arguments...)}
}

func newFlags(name, arguments string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "usage: vmferry-lab %s %s\n", name, arguments)
		flags.PrintDefaults()
	}
	return flags
}

// parse refuses words that are no flags.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return UsageError{err}
	}
	if flags.NArg() > 0 {
		return usageError("what is %q? (see --help)", flags.Arg(0))
	}
	return nil
}

func mainUp(ctx context.Context, args []string, out io.Writer) error {
	o := defaultOptions()
	flags := newFlags("up", "[--dir DIR] [--esxi] [--devices loop|file] [--writer-rate MB/S] [--guest plain|linux] [--disks SPEC] [--second-vm NAME] [--proxies N] [--openstack stand-in|real] [--token-lifetime TIME] [--heat]")
	flags.StringVar(&o.Dir, "dir", o.Dir, "the lab's folder, made with mode 0700")
	flags.BoolVar(&o.ESXi, "esxi", false, "a bare ESXi host instead of a vCenter")
	flags.StringVar(&o.Devices, "devices", "", "how attached volumes appear: loop or file (default loop where usable)")
	flags.Float64Var(&o.WriterRate, "writer-rate", o.WriterRate, "what the guest writes, MB/s; 0 = nothing")
	personality := flags.String("guest", string(o.Guest), "what the guest is: plain files, or a small linux that virt-v2v converts and that boots")
	disks := flags.String("disks", "", "the guest's disks, e.g. 192M+37s,96M+1s (s = sectors of 512 bytes)")
	flags.StringVar(&o.SecondVM, "second-vm", "", "the name of another VM with such disks")
	flags.IntVar(&o.Proxies, "proxies", 0, "VMs that disks can be attached to (proxy01...), for --transport hotadd")
	flags.StringVar(&o.OpenStack, "openstack", o.OpenStack, "what the OpenStack is: a stand-in, or the real services of Debian (needs root, and tools/setup openstack)")
	flags.BoolVar(&o.Heat, "heat", false, "with --openstack real: Heat, too")
	flags.DurationVar(&o.TokenLifetime, "token-lifetime", o.TokenLifetime, "how long a token of OpenStack lives (default 1h, with --openstack real 24h)")
	flags.DurationVar(&o.Deadline, "deadline", o.Deadline, "how long the lab may take to answer (default 1m0s, with --openstack real 15m0s)")
	if err := parse(flags, args); err != nil {
		return err
	}
	var err error
	if o.Guest, err = guest.ParsePersonality(*personality); err != nil {
		return usageError("--guest: %w", err)
	}
	if *disks != "" {
		if o.Disks, err = guest.ParseDisks(*disks); err != nil {
			return UsageError{err}
		}
	}
	if o.Executable, err = os.Executable(); err != nil {
		return err
	}
	lab, err := Up(ctx, o, out)
	if err != nil {
		return err
	}
	return introduce(lab, out)
}

// mainControl: ctl vcenter|openstack METHOD PATH [JSON].
func mainControl(ctx context.Context, args []string, out io.Writer) error {
	flags := newFlags("ctl", "[--dir DIR] vcenter|openstack METHOD PATH [JSON]")
	dir := flags.String("dir", DefaultDir(), "the lab's folder")
	if err := flags.Parse(args); err != nil {
		return UsageError{err}
	}
	words := flags.Args()
	if len(words) < 3 || len(words) > 4 || !strings.HasPrefix(words[2], "/") {
		flags.Usage()
		return usageError("needs vcenter or openstack, a method and a path")
	}
	lab, err := Load(*dir)
	if err != nil {
		return err
	}
	socket := lab.VCenter.Control
	switch words[0] {
	case "vcenter":
	case "openstack":
		socket = lab.OpenStack.Control
	default:
		return usageError("%q: vcenter or openstack", words[0])
	}
	var body []byte
	if len(words) == 4 {
		if body = []byte(words[3]); !json.Valid(body) {
			return usageError("this is not JSON: %s", words[3])
		}
	}
	raw, status, err := control(ctx, socket, strings.ToUpper(words[1]), words[2], body)
	if err != nil {
		return fmt.Errorf("the lab's %s does not answer: %w", words[0], err)
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, bytes.TrimSpace(raw), "", "  ") == nil && pretty.Len() > 0 {
		raw = append(pretty.Bytes(), '\n')
	}
	if status >= 300 {
		return fmt.Errorf("%s %s %s answers %d: %s", words[0], words[1], words[2], status, bytes.TrimSpace(raw))
	}
	_, err = out.Write(raw)
	return err
}

// introduce prints what runs and what to try.
func introduce(lab *Lab, out io.Writer) error {
	what := "a vCenter"
	if lab.Profile == "esxi" {
		what = "an ESXi host"
	}
	source := fmt.Sprintf("--vmware-endpoint %s --vmware-username %s --vmware-password-file %s --vmware-ca %s",
		lab.VCenter.Endpoint, quote(lab.VCenter.Username), quote(lab.VCenter.PasswordFile), quote(lab.VCenter.CA))
	dir := ""
	if lab.Dir != defaultDir {
		dir = " --dir " + quote(lab.Dir)
	}
	var mappings strings.Builder
	for _, mac := range lab.VCenter.MACs {
		fmt.Fprintf(&mappings, " --network-mapping mac=%s,network-id=%s,subnet-id=%s", mac, lab.OpenStack.NetworkID, lab.OpenStack.SubnetID)
	}
	compare, convert := "is every byte there?", " --run-v2v=false"
	if lab.Guest == string(guest.Linux) {
		compare, convert = "is every byte there? yes, but for what the conversion changed; --run-v2v=false leaves it out", ""
	}
	_, err := fmt.Fprintf(out, `The lab is up: %[1]s with the running guest %[2]s, and an OpenStack.

  source     https://%[3]s  as %[4]s, password in %[5]s
  target     %[6]s  (cloud "%[7]s" in %[8]s)
  logs       %[9]s

The environment for vmferry, openstack and the like:

  . %[10]s

Then try:

  # what there is to move
  vmferry inventory %[11]s
  # copy the running guest; again for a delta
  vmferry migrate %[11]s --vmware-path %[2]s
  vmferry status
  # shut it down, last delta, boot the server
  vmferry cutover %[11]s --vmware-path %[2]s%[16]s%[18]s
  # %[17]s
  vmferry-prove --frozen %[15]s --lab %[12]s
  # the same with other people's tools
  GOVC_URL=https://%[3]s GOVC_USERNAME=%[4]s GOVC_PASSWORD=$(cat %[5]s) GOVC_TLS_CA_CERTS=%[13]s govc vm.info %[2]s
  openstack volume list
  # how it looks from inside, and the end
  vmferry lab ctl%[14]s vcenter GET /vms/%[15]s
  vmferry lab down%[14]s
`, what, lab.VCenter.VMPath, lab.VCenter.Endpoint, lab.VCenter.Username, quote(lab.VCenter.PasswordFile),
		lab.OpenStack.AuthURL, lab.OpenStack.Cloud, lab.OpenStack.CloudsYAML, lab.Dir+"/log", quote(lab.Dir+"/env.sh"),
		source, quote(lab.Dir), quote(lab.VCenter.CA), dir, vmName, mappings.String(), compare, convert)
	return err
}
