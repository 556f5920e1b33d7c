// Power: on, off, and the guest's own shutdown, which ends some time after the
// call. It knows snapshots only in that power cycles reopen the disks.
package vcenter

import (
	"log"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

func (m *machine) isOn() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

func powerState(on bool) types.VirtualMachinePowerState {
	if on {
		return types.VirtualMachinePowerStatePoweredOn
	}
	return types.VirtualMachinePowerStatePoweredOff
}

func invalidPower(want, is bool) *fault {
	return newFault(&types.InvalidPowerState{RequestedState: powerState(want), ExistingState: powerState(is)},
		"The attempted operation cannot be performed in the current state (%s).", powerStateWords(is))
}

func powerStateWords(on bool) string {
	if on {
		return "Powered on"
	}
	return "Powered off"
}

func (s *Server) powerCall(m *machine, c *soapCall, on bool) (types.ManagedObjectReference, *fault) {
	name := "powerOffVM"
	if on {
		name = "powerOnVM"
	}
	return s.startTask(m.ref, m.name, name, c.session.user, func(func(int)) (types.AnyType, *fault) {
		if m.isOn() == on {
			return nil, invalidPower(on, on)
		}
		m.setPower(on)
		return nil, nil
	})
}

// setPower switches at once: off without a word to the guest. A write under way
// ends first, as a disk finishes the block it is at.
func (m *machine) setPower(on bool) {
	m.mu.Lock()
	m.on, m.stopping = on, false
	if !on {
		m.poweredOff = time.Now().UTC()
	}
	disks := append([]*machineDisk(nil), m.disks...)
	m.mu.Unlock()
	if on {
		m.group.Stun(func() error {
			m.applyTracking(disks)
			return nil
		})
	}
	m.setLoad()
	m.publish()
}

// shutdownGuest asks the guest; it stops writing at once and is off after the
// set delay. The call itself returns before that and starts no task.
func (s *Server) shutdownGuest(m *machine) (interface{}, *fault) {
	set := s.settings.get()
	m.mu.Lock()
	on, stopping := m.on, m.stopping
	if on && !stopping && set.Tools == "running" {
		m.stopping = true
	}
	m.mu.Unlock()
	switch {
	case !on:
		return nil, invalidPower(true, false)
	case set.Tools != "running":
		return nil, newFault(&types.ToolsUnavailable{}, "%s", wellKnown["ToolsUnavailable"])
	case stopping:
		return &types.ShutdownGuestResponse{}, nil
	}
	s.tasks.all.Add(1)
	go func() {
		defer s.tasks.all.Done()
		m.setLoad()
		time.Sleep(time.Duration(set.ShutdownDelayMS) * time.Millisecond)
		err := s.runNow(m.ref, func() error {
			m.mu.Lock()
			still := m.on && m.stopping
			m.mu.Unlock()
			if still {
				m.setPower(false)
			}
			return nil
		})
		if err != nil {
			log.Printf("vcenter: shutdown of %s: %v", m.name, err)
		}
	}()
	return &types.ShutdownGuestResponse{}, nil
}
