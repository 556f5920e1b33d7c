// Networks of both families: the same as the stand-in's (lab/openstack/seed.go).
package realcloud

import (
	"context"
	"fmt"
)

// seedDualNetworks makes one on which every address can be chosen, and one whose
// addresses of IPv6 come from MACs. Ranges of RFC 2544 and RFC 3849.
func (s *supervisor) seedDualNetworks(ctx context.Context) error {
	for i, name := range []string{"dual", "slaac"} {
		network, err := s.admin.create(ctx, s.neutron("/networks"), "network", obj{"name": name, "project_id": s.project})
		if err != nil {
			return err
		}
		if err := s.noteBridge(network); err != nil {
			return err
		}
		v4, v6 := fmt.Sprintf("198.18.%d.", i+1), fmt.Sprintf("2001:db8:%d::", i+1)
		second := obj{"name": name + "-v6", "ip_version": 6, "cidr": v6 + "/64", "gateway_ip": v6 + "1", "enable_dhcp": false}
		if name == "slaac" {
			// Neutron takes the modes only with DHCP. There is no agent for it, so a server's port on this network never gets ready.
			second["ipv6_address_mode"], second["ipv6_ra_mode"], second["enable_dhcp"] = "slaac", "slaac", true
		}
		for _, subnet := range []obj{{"name": name + "-v4", "ip_version": 4, "cidr": v4 + "0/24", "gateway_ip": v4 + "1", "enable_dhcp": false}, second} {
			subnet["network_id"], subnet["project_id"] = network, s.project
			if _, err := s.admin.create(ctx, s.neutron("/subnets"), "subnet", subnet); err != nil {
				return err
			}
		}
	}
	return nil
}
