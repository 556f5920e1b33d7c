// vmferry-lab: the lab in one program. `vcenter` and `openstack` are the servers,
// `up` starts both, `down` ends them, `status` and `ctl` look inside. `replay`
// answers from a recording instead.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"vmferry.dev/lab/environment"
	"vmferry.dev/lab/esxissh"
	"vmferry.dev/lab/openstack"
	"vmferry.dev/lab/realcloud"
	"vmferry.dev/lab/replay"
	"vmferry.dev/lab/vcenter"
)

const usage = `usage: vmferry-lab COMMAND ...
  up         start the lab: a vCenter (or ESXi) with a running guest, and an OpenStack
  down       end it
  status     say what runs
  ctl        talk to a control socket: ctl vcenter|openstack METHOD PATH [JSON]
  replay     answer from what vmferry --record DIR wrote: replay --from DIR [--dir LABDIR]
             Serves vSphere, OpenStack and the metadata service in the background on free
             ports with a CA of its own, as up does; the same calls get the same answers,
             in the recorded order, the last one again when there are no more. Any password
             will do (the files say "replay"). Bytes of disks are not recorded: reading one is answered with 404.
             A call that is not in the recording is answered with 404 and named in
             LABDIR/log/replay.log. down, status and ctl ... GET /calls work as for a lab.
  vcenter    the vCenter alone:   vcenter --config FILE
  openstack  the OpenStack alone: openstack --config FILE
  esxi-ssh   the SSH of an ESXi host alone: esxi-ssh --dir DIR --ready-file FILE
  folder     one file over HTTPS, as a datastore gives it out: folder --file FILE --dir DIR [--latency 4ms] [--rate MB/S]
  real-openstack
             the real OpenStack that up --openstack real starts, alone: real-openstack --config FILE
Each command knows --help.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "vcenter":
		err = vcenter.Main(os.Args[2:])
	case "esxi-ssh":
		err = esxissh.Main(os.Args[2:])
	case "openstack":
		err = openstack.Main(os.Args[2:])
	case "real-openstack":
		err = realcloud.Main(os.Args[2:])
	case "replay":
		if len(os.Args) > 2 && strings.HasPrefix(strings.TrimLeft(os.Args[2], "-"), "config") {
			err = replay.Main(os.Args[2:])
		} else {
			err = environment.Main(os.Args[1:])
		}
	case "up", "down", "status", "ctl", "folder":
		err = environment.Main(os.Args[1:])
	case "help", "--help", "-h":
		fmt.Print(usage)
	default:
		fmt.Fprintf(os.Stderr, "vmferry-lab: unknown command %q\n%s", os.Args[1], usage)
		os.Exit(2)
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmferry-lab %s: %v\n", os.Args[1], err)
		if errors.As(err, new(environment.UsageError)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
