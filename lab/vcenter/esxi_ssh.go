// The host's files over SSH: the flat file of each disk under /vmfs/volumes, which
// can be opened when /folder would give it out, too. A file that is open already
// stays so when its machine takes the lock back: there the lab is kinder than ESXi.
package vcenter

import (
	"fmt"
	"log"
	"path/filepath"
	"time"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/esxissh"
)

const serviceSSH = "ssh"

// startSSH; without one the lab does the rest all the same.
func (s *Server) startSSH() {
	if s.config.ESXiSSHDir == "" {
		return
	}
	server, err := esxissh.Start(s.config.ESXiSSHDir, s.admitSSH)
	if err != nil {
		log.Printf("this ESXi host has no SSH: %v", err)
		return
	}
	s.ssh = server
	for _, m := range s.machineList() {
		m.mu.Lock()
		m.showFiles()
		m.mu.Unlock()
	}
}

// admitSSH logs a connection, and delays it when a script says so.
func (s *Server) admitSSH() {
	entry := calls.Call{Service: serviceSSH, Method: "Connect"}
	if rule, struck := s.faults.Match(serviceSSH, "Connect", ""); struck && rule.Kind == calls.KindDelay {
		entry.Fault = rule.Kind
		time.Sleep(time.Duration(rule.DelayMS) * time.Millisecond)
	}
	s.log.Add(entry)
}

// showFiles follows the machine's state; mu is held.
func (m *machine) showFiles() {
	if m.s.ssh == nil {
		return
	}
	folder, names := filepath.Base(m.folder), map[string]bool{}
	for _, d := range m.disks {
		if d.data == nil {
			continue
		}
		name := fmt.Sprintf("%s-flat.vmdk", d.name)
		snapshot, _, found := d.data.Owner(name)
		if !found {
			continue
		}
		names[name] = true
		if err := m.s.ssh.Show(m.datastore.name, folder, name, filepath.Join(m.folder, name), m.on && snapshot == ""); err != nil {
			log.Printf("%s over ssh: %v", name, err)
		}
	}
	m.s.ssh.Keep(m.datastore.name, folder, names)
}
