// FindAllByUuid, which the simulator's SearchIndex lacks.
package vcenter

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func (s *Server) findAllByUuid(c *soapCall) (interface{}, *fault, bool) {
	req := c.body.(*types.FindAllByUuid)
	reply := &types.FindAllByUuidResponse{}
	if !req.VmSearch {
		return nil, newFault(&types.NotSupported{}, "This lab finds virtual machines by UUID, not hosts"), true
	}
	instance := req.InstanceUuid != nil && *req.InstanceUuid
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm, is := entity.(*simulator.VirtualMachine)
		if !is || !s.privileges.has(c.session.user, vm.Self, "System.View") {
			continue
		}
		simulator.Map.WithLock(simulator.SpoofContext(), vm, func() {
			uuid := vm.Config.Uuid
			if instance {
				uuid = vm.Config.InstanceUuid
			}
			if strings.EqualFold(uuid, req.Uuid) {
				reply.Returnval = append(reply.Returnval, vm.Self)
			}
		})
	}
	return reply, nil, true
}
