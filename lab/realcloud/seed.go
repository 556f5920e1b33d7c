// What the cloud holds when it is up: the same as the stand-in's (lab/openstack),
// made through the services' own interfaces.
package realcloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// nowhere is what a volume type and a flavor are called that no back end and no
// host can serve: a way to see Cinder and Nova fail.
const nowhere = "nowhere"

// seeded are the ids that the ready file tells.
type seeded struct {
	network, subnet, shared, external, flavor, instance string
}

const (
	flavorsVersion = "compute 2.61"
	serverVersion  = "compute 2.79"
)

// seedNetworks makes the lab's own network, on which it chooses addresses, one of
// the provider, on which it may not, and one that floating IPs come from.
// Documentation ranges of RFC 5737.
func (s *supervisor) seedNetworks(ctx context.Context) error {
	add := func(name, prefix string, fields obj) (network, subnet string, err error) {
		fields["name"] = name
		// Called by the admin for somebody's project.
		if network, err = s.admin.create(ctx, s.neutron("/networks"), "network", fields); err != nil {
			return "", "", err
		}
		if err := s.noteBridge(network); err != nil {
			return "", "", err
		}
		subnet, err = s.admin.create(ctx, s.neutron("/subnets"), "subnet", obj{"name": strings.Replace(name, "-net", "-subnet", 1), "network_id": network, "ip_version": 4,
			"cidr": prefix + ".0/24", "gateway_ip": prefix + ".1", "enable_dhcp": false, "project_id": fields["project_id"]})
		return network, subnet, err
	}
	var err error
	if s.made.network, s.made.subnet, err = add("lab-net", "192.0.2", obj{"project_id": s.project}); err != nil {
		return err
	}
	s.made.shared, _, err = add("shared-net", "198.51.100", obj{"project_id": s.provider.projectID, "shared": true,
		"provider:network_type": "flat", "provider:physical_network": physnet})
	if err != nil {
		return err
	}
	s.made.external, _, err = add("public", "203.0.113", obj{"project_id": s.provider.projectID, "router:external": true})
	if err != nil {
		return err
	}
	group, err := s.owner.create(ctx, s.neutron("/security-groups"), "security_group", obj{"name": "web", "description": "HTTP and HTTPS from anywhere"})
	if err != nil {
		return err
	}
	for _, port := range []int{80, 443} {
		if _, err := s.owner.create(ctx, s.neutron("/security-group-rules"), "security_group_rule", obj{"security_group_id": group,
			"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": port, "port_range_max": port}); err != nil {
			return err
		}
	}
	return nil
}

// seedRouter joins the lab's network to the external one, so that floating IPs can be
// had. There is no agent that would route. It is the provider's, and so its ports are
// not among the project's.
func (s *supervisor) seedRouter(ctx context.Context) error {
	router, err := s.admin.create(ctx, s.neutron("/routers"), "router", obj{"name": "lab-router", "project_id": s.provider.projectID,
		"external_gateway_info": obj{"network_id": s.made.external}})
	if err != nil {
		return err
	}
	return s.admin.call(ctx, http.MethodPut, s.neutron("/routers/"+router+"/add_router_interface"), obj{"subnet_id": s.made.subnet}, nil)
}

// seedStorage makes the volume types and waits until every back end can be used.
func (s *supervisor) seedStorage(ctx context.Context) error {
	for _, name := range append([]string{nowhere}, backends...) {
		if _, err := s.admin.create(ctx, s.cinder("/types"), "volume_type", obj{"name": name, "extra_specs": obj{"volume_backend_name": name}}); err != nil {
			return err
		}
	}
	if err := s.seedSpecialTypes(ctx); err != nil {
		return err
	}
	return until(ctx, "Cinder's back ends", func() error {
		var answer struct{ Pools []identified }
		if err := s.admin.call(ctx, http.MethodGet, s.cinder("/scheduler-stats/get_pools"), nil, &answer); err != nil {
			return err
		}
		if len(answer.Pools) < len(backends) {
			return fmt.Errorf("%d of %d have reported", len(answer.Pools), len(backends))
		}
		return nil
	})
}

// seedSpecialTypes makes the types whose volumes are encrypted, and may be attached to several servers.
func (s *supervisor) seedSpecialTypes(ctx context.Context) error {
	vault, err := s.admin.create(ctx, s.cinder("/types"), "volume_type", obj{"name": "vault", "extra_specs": obj{"volume_backend_name": backends[0]}})
	if err != nil {
		return err
	}
	if err := s.admin.call(ctx, http.MethodPost, s.cinder("/types/"+vault+"/encryption"), obj{"encryption": obj{
		"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256, "control_location": "front-end"}}, nil); err != nil {
		return err
	}
	_, err = s.admin.create(ctx, s.cinder("/types"), "volume_type", obj{"name": "shared",
		"extra_specs": obj{"volume_backend_name": backends[0], "multiattach": "<is> True"}})
	return err
}

func (s *supervisor) seedFlavors(ctx context.Context) error {
	for _, f := range []struct {
		id, name   string
		ram, vcpus int
		specs      obj
	}{{"1", "m1.tiny", 512, 1, nil}, {"2", "m1.small", 2048, 1, nil}, {"3", "m1.medium", 4096, 2, nil},
		{"4", "g1.medium", 4096, 2, obj{"resources:VGPU": "1"}},
		{"5", nowhere, 512, 1, obj{"capabilities:hypervisor_type": nowhere}}} {
		if _, err := s.admin.create(ctx, s.nova("/flavors"), "flavor", obj{"id": f.id, "name": f.name, "ram": f.ram, "vcpus": f.vcpus, "disk": 0,
			"os-flavor-access:is_public": f.name != nowhere}, "OpenStack-API-Version", flavorsVersion); err != nil {
			return err
		}
		if f.specs == nil {
			continue
		}
		if err := s.admin.call(ctx, http.MethodPost, s.nova("/flavors/"+f.id+"/os-extra_specs"), obj{"extra_specs": f.specs}, nil); err != nil {
			return err
		}
	}
	s.made.flavor = "2"
	return s.admin.call(ctx, http.MethodPost, s.nova("/flavors/5/action"), obj{"addTenantAccess": obj{"tenant": s.project}}, nil)
}

// seedConversionHost makes this machine a server of the lab's project.
func (s *supervisor) seedConversionHost(ctx context.Context) error {
	glance := s.layout.URL("glance") + "/v2/images"
	var image identified
	if err := s.admin.call(ctx, http.MethodPost, glance, obj{"name": hostName + "-image", "disk_format": "raw", "container_format": "bare",
		"visibility": "private"}, &image); err != nil {
		return err
	}
	if err := s.admin.call(ctx, http.MethodPut, glance+"/"+image.ID+"/file", make([]byte, 512), nil, "Content-Type", "application/octet-stream"); err != nil {
		return err
	}
	if err := s.awaitComputes(ctx); err != nil {
		return err
	}
	// Without networks: its host has no agent that could bind a port.
	var err error
	s.made.instance, err = s.admin.create(ctx, s.nova("/servers"), "server", obj{"name": hostName, "imageRef": image.ID, "flavorRef": "1",
		"networks": "none", "availability_zone": zoneName + ":" + ferryHost}, "OpenStack-API-Version", serverVersion)
	if err != nil {
		return err
	}
	err = until(ctx, "the conversion host", func() error {
		var answer struct {
			Server struct {
				Status string
				Fault  struct{ Message string }
			}
		}
		if err := s.admin.call(ctx, http.MethodGet, s.nova("/servers/"+s.made.instance), nil, &answer); err != nil {
			return err
		}
		state := fmt.Errorf("it is %s %s", answer.Server.Status, answer.Server.Fault.Message)
		switch answer.Server.Status {
		case "ACTIVE":
			return nil
		case "ERROR":
			return hopeless{state}
		}
		return state
	})
	if err != nil {
		return err
	}
	return s.closeFerryHost(ctx)
}

type computeService struct {
	ID, Host, State, Status string
}

func (s *supervisor) computes(ctx context.Context) ([]computeService, error) {
	var answer struct{ Services []computeService }
	err := s.admin.call(ctx, http.MethodGet, s.nova("/os-services?binary=nova-compute"), nil, &answer, "OpenStack-API-Version", serverVersion)
	return answer.Services, err
}

// awaitComputes waits until both compute hosts offer themselves.
func (s *supervisor) awaitComputes(ctx context.Context) error {
	return until(ctx, "the compute hosts", func() error {
		var answer struct{ Hypervisors []identified }
		if err := s.admin.call(ctx, http.MethodGet, s.nova("/os-hypervisors"), nil, &answer, "OpenStack-API-Version", serverVersion); err != nil {
			return err
		}
		if len(answer.Hypervisors) < 2 {
			return fmt.Errorf("%d of 2 have reported", len(answer.Hypervisors))
		}
		return nil
	})
}

// closeFerryHost takes the conversion host's host away from the scheduler: every
// other server goes to where servers really run.
func (s *supervisor) closeFerryHost(ctx context.Context) error {
	services, err := s.computes(ctx)
	if err != nil {
		return err
	}
	for _, service := range services {
		if service.Host == ferryHost {
			return s.admin.call(ctx, http.MethodPut, s.nova("/os-services/"+service.ID),
				obj{"status": "disabled", "disabled_reason": "only the conversion host is here"}, nil, "OpenStack-API-Version", serverVersion)
		}
	}
	return errors.New("Nova has lost the host " + ferryHost)
}

// awaitAgent waits for the agent that ports are bound to.
func (s *supervisor) awaitAgent(ctx context.Context) error {
	return until(ctx, "the network agent", func() error {
		var answer struct {
			Agents []struct {
				Alive bool
				Host  string
			}
		}
		if err := s.admin.call(ctx, http.MethodGet, s.neutron("/agents"), nil, &answer); err != nil {
			return err
		}
		for _, agent := range answer.Agents {
			if agent.Alive && agent.Host == hypervisor {
				return nil
			}
		}
		return errors.New("it has not reported")
	})
}

// seedAppCredential makes an application credential and writes it down.
func (s *supervisor) seedAppCredential(ctx context.Context) error {
	var answer struct {
		Credential struct{ ID, Name, Secret string } `json:"application_credential"`
	}
	if err := s.owner.call(ctx, http.MethodPost, s.layout.URL("keystone")+"/v3/users/"+s.user+"/application_credentials",
		obj{"application_credential": obj{"name": "lab"}}, &answer); err != nil {
		return err
	}
	made := answer.Credential
	s.secrets.add(made.Secret)
	raw, err := json.MarshalIndent(obj{"id": made.ID, "name": made.Name, "secret": made.Secret, "user_id": s.user}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.appCredFile(), append(raw, '\n'), 0o600)
}

func (s *supervisor) appCredFile() string { return filepath.Join(s.layout.Dir, "appcred.json") }
