// vmferry-lab: the lab in one program. `vcenter` and `openstack` are the servers,
// `up` starts both, `down` ends them, `status` and `ctl` look inside.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"vmferry.dev/lab/environment"
	"vmferry.dev/lab/openstack"
	"vmferry.dev/lab/vcenter"
)

const usage = `usage: vmferry-lab COMMAND ...
  up         start the lab: a vCenter (or ESXi) with a running guest, and an OpenStack
  down       end it
  status     say what runs
  ctl        talk to a control socket: ctl vcenter|openstack METHOD PATH [JSON]
  vcenter    the vCenter alone:   vcenter --config FILE
  openstack  the OpenStack alone: openstack --config FILE
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
	case "openstack":
		err = openstack.Main(os.Args[2:])
	case "up", "down", "status", "ctl":
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
		os.Exit(1)
	}
}
