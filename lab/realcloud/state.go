// The state as a test wants to see it: the lab's project in the shape of the
// stand-in's GET /state, gathered from the services.
package realcloud

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
)

type volumeView struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Description interface{}       `json:"description"`
	Size        int               `json:"size"`
	Status      string            `json:"status"`
	Metadata    map[string]string `json:"metadata"`
	Image       map[string]string `json:"volume_image_metadata"`
	Bootable    string            `json:"bootable"`
	Type        string            `json:"volume_type"`
	Zone        string            `json:"availability_zone"`
	Host        string            `json:"os-vol-host-attr:host"`
	Attachments []struct {
		ID     string `json:"attachment_id"`
		Server string `json:"server_id"`
		Device string `json:"device"`
	} `json:"attachments"`
}

type serverView struct {
	ID     string            `json:"id"`
	Name   string            `json:"name"`
	Status string            `json:"status"`
	Task   interface{}       `json:"OS-EXT-STS:task_state"`
	Zone   string            `json:"OS-EXT-AZ:availability_zone"`
	Host   string            `json:"OS-EXT-SRV-ATTR:host"`
	Meta   map[string]string `json:"metadata"`
	Tags   []string          `json:"tags"`
	Key    interface{}       `json:"key_name"`
	Data   interface{}       `json:"OS-EXT-SRV-ATTR:user_data"`
	Drive  string            `json:"config_drive"`
	Fault  struct{ Message string }
	Flavor struct {
		Name string `json:"original_name"`
	}
	Groups  []identified `json:"security_groups"`
	Volumes []identified `json:"os-extended-volumes:volumes_attached"`
}

func (s *supervisor) state(ctx context.Context) (obj, error) {
	var volumes struct{ Volumes []volumeView }
	if err := s.admin.call(ctx, http.MethodGet, s.cinder("/volumes/detail"), nil, &volumes); err != nil {
		return nil, err
	}
	var servers struct{ Servers []serverView }
	if err := s.admin.call(ctx, http.MethodGet, s.nova("/servers/detail"), nil, &servers, "OpenStack-API-Version", serverVersion); err != nil {
		return nil, err
	}
	var images struct{ Images []obj }
	if err := s.admin.call(ctx, http.MethodGet, s.layout.URL("glance")+"/v2/images"+query("owner", s.project), nil, &images); err != nil {
		return nil, err
	}
	var ports struct{ Ports []obj }
	if err := s.admin.call(ctx, http.MethodGet, s.neutron("/ports"+query("project_id", s.project)), nil, &ports); err != nil {
		return nil, err
	}
	var groups struct {
		Groups []obj `json:"security_groups"`
	}
	if err := s.admin.call(ctx, http.MethodGet, s.neutron("/security-groups"+query("project_id", s.project)), nil, &groups); err != nil {
		return nil, err
	}
	var floating struct{ FloatingIPs []obj }
	if err := s.admin.call(ctx, http.MethodGet, s.neutron("/floatingips"+query("project_id", s.project)), nil, &floating); err != nil {
		return nil, err
	}
	keyPairs, err := s.keyPairs(ctx)
	if err != nil {
		return nil, err
	}
	quota, err := s.quota(ctx)
	if err != nil {
		return nil, err
	}
	volumeList, serverList := []obj{}, []obj{}
	// Oldest first, as the stand-in has them; the services answer the other way.
	for i := len(volumes.Volumes) - 1; i >= 0; i-- {
		volumeList = append(volumeList, s.volumeState(volumes.Volumes[i]))
	}
	for i := len(servers.Servers) - 1; i >= 0; i-- {
		serverList = append(serverList, serverState(servers.Servers[i], ports.Ports))
	}
	return obj{"images": images.Images, "volumes": volumeList, "servers": serverList, "ports": ports.Ports, "security_groups": groups.Groups,
		"floating_ips": floating.FloatingIPs, "keypairs": keyPairs, "quota": quota, "settings": obj{}}, nil
}

// keyPairs are those of the lab's user: key pairs belong to no project.
func (s *supervisor) keyPairs(ctx context.Context) ([]obj, error) {
	var answer struct {
		Pairs []struct{ KeyPair obj } `json:"keypairs"`
	}
	if err := s.admin.call(ctx, http.MethodGet, s.nova("/os-keypairs"+query("user_id", s.user)), nil, &answer, "OpenStack-API-Version", serverVersion); err != nil {
		return nil, err
	}
	pairs := []obj{}
	for _, one := range answer.Pairs {
		pairs = append(pairs, one.KeyPair)
	}
	return pairs, nil
}

func (s *supervisor) volumeState(v volumeView) obj {
	attachments := []obj{}
	for _, a := range v.Attachments {
		attachments = append(attachments, obj{"id": a.ID, "server_id": a.Server, "device": a.Device, "attached": v.Status == "in-use"})
	}
	file := ""
	// storage@BACKEND#POOL
	if at := strings.SplitN(strings.SplitN(v.Host, "#", 2)[0], "@", 2); len(at) == 2 {
		file = filepath.Join(s.layout.export(at[1]), "volume-"+v.ID)
	}
	if v.Metadata == nil {
		v.Metadata = map[string]string{}
	}
	if v.Image == nil {
		v.Image = map[string]string{}
	}
	return obj{"id": v.ID, "name": v.Name, "description": v.Description, "size": v.Size, "status": v.Status, "metadata": v.Metadata,
		"image_metadata": v.Image, "bootable": v.Bootable == "true", "volume_type": v.Type, "availability_zone": v.Zone, "file": file,
		"attachments": attachments, "device": s.attached.device(v.ID)}
}

func serverState(v serverView, ports []obj) obj {
	volumes, nics, groups := []string{}, []string{}, []string{}
	for _, volume := range v.Volumes {
		volumes = append(volumes, volume.ID)
	}
	for _, port := range ports {
		if port["device_id"] == v.ID {
			nics = append(nics, fmt.Sprint(port["id"]))
		}
	}
	for _, group := range v.Groups {
		groups = append(groups, group.Name)
	}
	return obj{"id": v.ID, "name": v.Name, "status": v.Status, "task_state": v.Task, "volumes": volumes, "ports": nics,
		"flavor": v.Flavor.Name, "availability_zone": v.Zone, "security_groups": groups, "metadata": v.Meta,
		"tags": append([]string{}, v.Tags...), "key_name": v.Key, "fault": v.Fault.Message, "host": v.Host, "user_data": v.Data, "config_drive": v.Drive}
}

// quota gives the limits of the lab's project.
func (s *supervisor) quota(ctx context.Context) (obj, error) {
	var storage, compute struct {
		Set map[string]interface{} `json:"quota_set"`
	}
	if err := s.admin.call(ctx, http.MethodGet, s.cinder("/os-quota-sets/"+s.project), nil, &storage); err != nil {
		return nil, err
	}
	if err := s.admin.call(ctx, http.MethodGet, s.nova("/os-quota-sets/"+s.project), nil, &compute); err != nil {
		return nil, err
	}
	var network struct{ Quota map[string]interface{} }
	if err := s.admin.call(ctx, http.MethodGet, s.neutron("/quotas/"+s.project), nil, &network); err != nil {
		return nil, err
	}
	all := obj{}
	for name, limit := range quotaOf {
		all[name] = map[string]map[string]interface{}{"cinder": storage.Set, "nova": compute.Set, "neutron": network.Quota}[limit.keeper][limit.name]
	}
	return all, nil
}
