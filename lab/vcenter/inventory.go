// The inventory: the simulator's model of a vCenter or of a bare ESXi host, the
// VM with real disks, and small VMs around it for lookups and paging.
package vcenter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/devices"
	"vmferry.dev/lab/disk"
	"vmferry.dev/lab/guest"
)

var serviceInstance = vim25.ServiceInstance

type datastore struct {
	name string
	path string
	ref  types.ManagedObjectReference
}

// small is a VM without disk data.
type small struct {
	folder string // path below the datacenter's VM folder; missing folders are made
	name   string
	efi    bool
	on     bool
}

// others are VMs that lookups have to tell apart from web01: near names, the
// same name in two folders, names with characters that the API escapes.
func (s *Server) others() []small {
	list := []small{
		{name: "web02", on: true}, {name: "web01-old"}, {name: "Web01"}, {name: "webshop01", on: true},
		{folder: "Production", name: "app01", on: true}, {folder: "Test", name: "app01"},
		{folder: "Production/Europe", name: "erp01", on: true}, {folder: "Production/Europe", name: "db server 01"},
		{folder: "Test", name: "blue/green"}, {folder: "Test", name: "50% load"}, {folder: "Test", name: "grün-ß"},
		{name: "efi01", efi: true},
	}
	if s.config.ESXi {
		// A bare host has no VM folders, and names are unique there.
		flat := []small{}
		seen := map[string]bool{}
		for _, vm := range list {
			if !seen[vm.name] {
				vm.folder = ""
				flat = append(flat, vm)
			}
			seen[vm.name] = true
		}
		list = flat
	}
	for i := 1; i <= s.config.Others; i++ {
		folder := "Small"
		if s.config.ESXi {
			folder = ""
		}
		list = append(list, small{folder: folder, name: fmt.Sprintf("small%03d", i)})
	}
	return list
}

// inventory is what building needs at hand.
type inventory struct {
	s       *Server
	ctx     context.Context
	spoof   *simulator.Context
	client  *vim25.Client
	folders *object.DatacenterFolders
	host    types.ManagedObjectReference
	pool    types.ManagedObjectReference
	byPath  map[string]*object.Folder
}

func (s *Server) buildInventory(ctx context.Context) (*inventory, error) {
	if s.config.ESXi {
		s.model, s.datacenter = simulator.ESX(), esx.Datacenter.Name
	} else {
		s.model, s.datacenter = simulator.VPX(), "DC0"
		s.model.Host, s.model.Cluster, s.model.ClusterHost = 0, 1, 2
	}
	about := &s.model.ServiceContent.About
	about.Version, about.ApiVersion, about.Build = "8.0.3", "8.0.3.0", "24022515"
	about.FullName = about.Name + " 8.0.3 build-24022515"
	s.model.Machine, s.model.Datastore, s.model.Autostart = 0, 0, false
	if err := s.model.Create(); err != nil {
		return nil, fmt.Errorf("the simulator's model: %w", err)
	}
	simulator.Map.Handler = s.watchSessions
	simulator.Map.AddHandler(s.changes)
	s.model.Service.RegisterSDK(simulator.Map, simulator.Map.Path+"/vimService")
	s.model.Service.Listen = listenURL()
	s.raiseREST()

	inv := &inventory{s: s, ctx: ctx, spoof: simulator.SpoofContext(), byPath: map[string]*object.Folder{}}
	var err error
	if inv.client, err = vim25.NewClient(ctx, s.model.Service); err != nil {
		return nil, err
	}
	dc, ok := simulator.Map.Any("Datacenter").(*simulator.Datacenter)
	if !ok {
		return nil, fmt.Errorf("the simulator has no datacenter")
	}
	if inv.folders, err = object.NewDatacenter(inv.client, dc.Self).Folders(ctx); err != nil {
		return nil, err
	}
	inv.byPath[""] = inv.folders.VmFolder
	if err := inv.findCompute(); err != nil {
		return nil, err
	}
	for _, name := range []string{"LocalDS_0", "LocalDS_1"} {
		path := s.config.Dir
		if name != "LocalDS_0" {
			path += "-small"
		}
		if err := inv.addDatastore(name, path); err != nil {
			return nil, err
		}
	}
	return inv, nil
}

func (inv *inventory) findCompute() error {
	for _, entity := range simulator.Map.All("HostSystem") {
		host, ok := entity.(*simulator.HostSystem)
		if !ok {
			continue
		}
		if inv.host.Value == "" || host.Self.Value < inv.host.Value {
			inv.host = host.Self
		}
	}
	if inv.host.Value == "" {
		return fmt.Errorf("the simulator has no host")
	}
	name, err := object.NewHostSystem(inv.client, inv.host).ObjectName(inv.ctx)
	if err != nil {
		return err
	}
	inv.s.host = hostSystem{inv.host, name}
	pool, err := object.NewHostSystem(inv.client, inv.host).ResourcePool(inv.ctx)
	if err != nil {
		return err
	}
	inv.pool = pool.Reference()
	return nil
}

// hostSystem is the host that all machines run on.
type hostSystem struct {
	ref     types.ManagedObjectReference
	ownName string // the simulator's
}

// publish gives it another name; none gives it its own again.
func (h hostSystem) publish(name string) {
	if name == "" {
		name = h.ownName
	}
	host := simulator.Map.Get(h.ref).(*simulator.HostSystem)
	simulator.Map.WithLock(simulator.SpoofContext(), host, func() { host.Name = name })
}

func (inv *inventory) addDatastore(name, path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	store := &datastore{name: name, path: path}
	for _, entity := range simulator.Map.All("HostSystem") {
		system, err := object.NewHostSystem(inv.client, entity.Reference()).ConfigManager().DatastoreSystem(inv.ctx)
		if err != nil {
			return err
		}
		added, err := system.CreateLocalDatastore(inv.ctx, name, path)
		if err != nil {
			return fmt.Errorf("datastore %s: %w", name, err)
		}
		store.ref = added.Reference()
	}
	inv.s.datastores[name] = store
	return nil
}

// folder finds or makes a VM folder by its path below the VM folder.
func (inv *inventory) folder(path string) (*object.Folder, error) {
	if found := inv.byPath[path]; found != nil {
		return found, nil
	}
	parent, err := inv.folder(parentPath(path))
	if err != nil {
		return nil, err
	}
	made, err := parent.CreateFolder(inv.ctx, filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", path, err)
	}
	inv.byPath[path] = made
	return made, nil
}

func parentPath(path string) string {
	if parent := filepath.Dir(path); parent != "." {
		return parent
	}
	return ""
}

// create makes a VM in the simulator, without waiting through its property collector.
func (inv *inventory) create(path string, spec types.VirtualMachineConfigSpec) (*simulator.VirtualMachine, error) {
	folder, err := inv.folder(path)
	if err != nil {
		return nil, err
	}
	owner := simulator.Map.Get(folder.Reference()).(*simulator.Folder)
	body := owner.CreateVMTask(inv.spoof, &types.CreateVM_Task{This: owner.Self, Config: spec, Pool: inv.pool, Host: &inv.host})
	if failed := body.Fault(); failed != nil {
		return nil, fmt.Errorf("VM %s: %s", spec.Name, failed.String)
	}
	ref := body.(*methods.CreateVM_TaskBody).Res.Returnval
	task := simulator.Map.Get(ref).(*simulator.Task)
	task.Wait()
	if task.Info.Error != nil {
		return nil, fmt.Errorf("VM %s: %T", spec.Name, task.Info.Error.Fault)
	}
	return simulator.Map.Get(task.Info.Result.(types.ManagedObjectReference)).(*simulator.VirtualMachine), nil
}

func (inv *inventory) addOthers() error {
	for _, vm := range inv.s.others() {
		spec := types.VirtualMachineConfigSpec{Name: vm.name, GuestId: "otherLinux64Guest", NumCPUs: 1, MemoryMB: 512, Version: "vmx-19",
			Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_1]"}}
		if vm.efi {
			spec.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
			spec.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(true)}
		}
		made, err := inv.create(vm.folder, spec)
		if err != nil {
			return err
		}
		if vm.on {
			body := made.PowerOnVMTask(inv.spoof, &types.PowerOnVM_Task{This: made.Self})
			if failed := body.Fault(); failed != nil {
				return fmt.Errorf("VM %s: %s", vm.name, failed.String)
			}
			// On before anybody looks, and before the next VM: both would post events with the same context's lock.
			simulator.Map.Get(body.(*methods.PowerOnVM_TaskBody).Res.Returnval).(*simulator.Task).Wait()
		}
	}
	return nil
}

// addMachine makes the VM with real disks; its flat files are built when they
// are not there.
func (inv *inventory) addMachine(name string, number int) (*machine, error) {
	s := inv.s
	store := s.datastores["LocalDS_0"]
	folder := filepath.Join(store.path, name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	guestID, fullName, annotation := "debian11_64Guest", "Debian GNU/Linux 11 (64-bit)", "The lab's synthetic guest"
	if s.config.Guest == string(guest.Linux) {
		guestID, fullName, annotation = "debian12_64Guest", "Debian GNU/Linux 12 (64-bit)", "The lab's small Linux"
	}
	vm, err := inv.create("", types.VirtualMachineConfigSpec{
		Name: name, GuestId: guestID, NumCPUs: 2, MemoryMB: 2048, Version: "vmx-19",
		Uuid: fmt.Sprintf("4210f0a8-7b1e-4d4c-9c52-0c1ab0de%04d", number), InstanceUuid: fmt.Sprintf("5010f0a8-7b1e-4d4c-9c52-0c1ab0de%04d", number),
		Files: &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s] %s/%s.vmx", store.name, name, name)},
	})
	if err != nil {
		return nil, err
	}
	m := inv.machine(vm, name, folder, store)
	m.hardware = hardware{firmware: "bios", guestID: guestID, fullName: fullName,
		version: "vmx-19", annotation: annotation, cpus: 2, memoryMB: 2048,
		fixed: append([]types.BaseVirtualDevice(nil), vm.Config.Hardware.Device...)}
	vm.Config.InstanceUuid = fmt.Sprintf("5010f0a8-7b1e-4d4c-9c52-0c1ab0de%04d", number)
	if m.hardware.nics, err = inv.nics(vm, number); err != nil {
		return nil, err
	}
	if err := m.openDisks(inv.ctx); err != nil {
		return nil, err
	}
	m.on, m.load = true, s.config.WriterRate > 0
	m.publish()
	return m, nil
}

func (inv *inventory) machine(vm *simulator.VirtualMachine, name, folder string, store *datastore) *machine {
	return &machine{s: inv.s, ref: vm.Self, name: name, folder: folder, datastore: store, group: disk.NewGroup(),
		extra: map[string]string{"svga.present": "TRUE", "disk.EnableUUID": "TRUE"}, wrong: wrongOff,
		rememberIDs: map[string]int64{}, added: map[int32]bool{}}
}

// addProxy makes a running VM with a small disk of its own that others' disks can
// be attached to. Its guest's devices appear below root.
func (inv *inventory) addProxy(name, root string, number int) (*machine, error) {
	s, store := inv.s, inv.s.datastores["LocalDS_0"]
	folder := filepath.Join(store.path, name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	uuid := fmt.Sprintf("420a1b2c-3d4e-5f60-7182-93a4b5c6%04d", number)
	vm, err := inv.create("", types.VirtualMachineConfigSpec{
		Name: name, GuestId: "debian12_64Guest", NumCPUs: 2, MemoryMB: 4096, Version: "vmx-19", Uuid: uuid,
		Files: &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s] %s/%s.vmx", store.name, name, name)},
	})
	if err != nil {
		return nil, err
	}
	vm.Config.InstanceUuid = fmt.Sprintf("500a1b2c-3d4e-5f60-7182-93a4b5c6%04d", number)
	m := inv.machine(vm, name, folder, store)
	m.hardware = hardware{firmware: "bios", guestID: "debian12_64Guest", fullName: "Debian GNU/Linux 12 (64-bit)",
		version: "vmx-19", annotation: "A proxy for disks of others", cpus: 2, memoryMB: 4096,
		fixed: append([]types.BaseVirtualDevice(nil), vm.Config.Hardware.Device...)}
	m.guest = &devices.Guest{Root: root, Loop: s.config.Devices == "loop"}
	if err := m.guest.Prepare(uuid); err != nil {
		return nil, err
	}
	for key, number := range bridgeNumbers {
		m.extra[key] = number
	}
	if err := m.showController(0); err != nil {
		return nil, err
	}
	if m.writer, err = guest.NewWriter(nil, guest.DefaultRate, s.config.Seed); err != nil {
		return nil, err
	}
	if _, err := m.addDisk(1<<20, "", "", 0); err != nil {
		return nil, err
	}
	m.on = true
	m.publish()
	return m, nil
}

// nics are vmxnet3 cards on the standard network and, in a vCenter, on the
// distributed port group too.
func (inv *inventory) nics(vm *simulator.VirtualMachine, number int) ([]types.BaseVirtualDevice, error) {
	type place struct {
		name    string
		ref     types.ManagedObjectReference
		backing types.BaseVirtualDeviceBackingInfo
	}
	var places []place
	for _, entity := range simulator.Map.All("Network") {
		network := entity.(*mo.Network)
		self := network.Self
		places = append(places, place{network.Name, self, &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: network.Name, UseAutoDetect: types.NewBool(false)},
			Network:                        &self}})
	}
	for _, entity := range simulator.Map.All("DistributedVirtualPortgroup") {
		group := entity.(*simulator.DistributedVirtualPortgroup)
		if group.Config.DistributedVirtualSwitch == nil || group.Config.Uplink != nil && *group.Config.Uplink {
			continue
		}
		owner := simulator.Map.Get(*group.Config.DistributedVirtualSwitch).(*simulator.DistributedVirtualSwitch)
		if group.Name != "DC0_DVPG0" {
			continue
		}
		places = append(places, place{group.Name, group.Self, &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{
			Port: types.DistributedVirtualSwitchPortConnection{SwitchUuid: owner.Uuid, PortgroupKey: group.Key}}})
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("the simulator has no network")
	}
	var cards []types.BaseVirtualDevice
	vm.Network = nil
	for i := 0; i < inv.s.config.Nics; i++ {
		at := places[i%len(places)]
		card := &types.VirtualVmxnet3{}
		card.Key, card.ControllerKey, card.UnitNumber = int32(4000+i), 100, types.NewInt32(int32(7+i))
		card.DeviceInfo = &types.Description{Label: fmt.Sprintf("Network adapter %d", i+1), Summary: at.name}
		card.Backing = at.backing
		card.AddressType, card.MacAddress = "assigned", fmt.Sprintf("00:50:56:9a:%02x:%02x", 15+number, i+1)
		card.WakeOnLanEnabled = types.NewBool(true)
		card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true, Connected: true, Status: "ok"}
		cards = append(cards, card)
		if i < len(places) {
			vm.Network = append(vm.Network, at.ref)
		}
	}
	return cards, nil
}

// openDisks builds the guest and starts its (paused) writer.
func (m *machine) openDisks(ctx context.Context) error {
	spec := guest.Spec{Name: m.name, Personality: guest.Personality(m.s.config.Guest), Seed: m.s.config.Seed, Scratch: m.s.config.Dir + "-scratch"}
	for i, bytes := range m.s.config.Disks {
		d := &machineDisk{unit: int32(i), controller: scsiKey, mode: "persistent", backing: backingFlat, name: m.name}
		if i > 0 {
			d.name = fmt.Sprintf("%s_%d", m.name, i)
		}
		if i >= 7 {
			d.unit++
		}
		d.key = firstDiskKey + d.unit
		m.disks = append(m.disks, d)
		spec.Disks = append(spec.Disks, guest.DiskSpec{Path: filepath.Join(m.folder, d.name+"-flat.vmdk"), Key: uint32(d.key), Bytes: bytes})
	}
	if err := os.MkdirAll(spec.Scratch, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(spec.Scratch)
	layouts, err := guest.Build(ctx, spec)
	if err != nil {
		return err
	}
	var targets []guest.Target
	for i, d := range m.disks {
		if d.data, err = disk.Open(m.folder, d.name, m.group); err != nil {
			return err
		}
		d.written = layouts[i].Data
		targets = append(targets, guest.Target{Key: uint32(d.key), Disk: d.data, Data: d.written})
	}
	rate := m.s.config.WriterRate
	if rate == 0 {
		rate = guest.DefaultRate // for when the load is turned on later
	}
	m.writer, err = guest.NewWriter(targets, rate, m.s.config.Seed)
	return err
}
