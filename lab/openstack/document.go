// The page of the documentation that lists the modelled calls.
package openstack

import (
	"fmt"
	"strings"
)

var serviceTitles = map[string]string{
	"identity": "Keystone v3", "volume": "Cinder v3", "compute": "Nova v2.1", "network": "Neutron v2.0", "image": "Glance v2",
}

// ListCalls is docs/lab-openstack-calls.md.
func ListCalls() string {
	var b strings.Builder
	b.WriteString("# Calls the lab's OpenStack models\n\n" +
		"Printed by `vmferry-lab openstack --list-calls` from the router's table; a test fails when this page differs.\n" +
		"Any other path, method, action, query parameter or body field is answered with 501 (404 outside the five services)\n" +
		"and a message that begins with `lab/openstack does not model`. `name@2.52` is known from that microversion on; an\n" +
		"older request that sends it is refused with 400, as by the real service. `name.*` takes any keys, `name[]` is a list.\n" +
		"Cinder's paths may carry the project after `/v3`.\n")
	fmt.Fprintf(&b, "\nMicroversions: compute %s to %s, volume %s to %s.\n", computeRange[0], computeRange[1], volumeRange[0], volumeRange[1])
	for _, service := range services {
		fmt.Fprintf(&b, "\n## %s (`/%s`)\n\n| Call | What | Query | Body |\n|---|---|---|---|\n", serviceTitles[service], service)
		for _, r := range table {
			if r.service != service {
				continue
			}
			call := "`" + r.method + " " + r.path + "`"
			if r.action != "" {
				call += " `" + r.action + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", call, r.about, quoted(r.query), quoted(r.fields))
		}
	}
	return b.String()
}

func quoted(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "`" + strings.Join(names, "` `") + "`"
}
