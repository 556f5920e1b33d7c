# Sessions, inventory, privileges and power of the lab's vCenter, and of a bare ESXi host.
import base64
import threading
import time
import unittest

from pyVim import connect
from pyVmomi import vim, vmodl

from case import VCenterCase, data_ranges, disks_of
from lab import ControlError


class Sessions(VCenterCase):
    def test_wrong_password(self):
        with self.assertRaises(vim.fault.InvalidLogin):
            self.login("wrong")

    def test_current_session(self):
        self.assertEqual(self.content.sessionManager.currentSession.userName, self.lab.username)
        self.assertIsNotNone(self.si.CurrentTime())

    def test_second_login_is_refused(self):
        with self.assertRaises(vim.fault.InvalidLogin):
            self.content.sessionManager.Login(self.lab.username, self.lab.password)

    def test_everything_needs_a_session(self):
        cookie, self.si._stub.cookie = self.si._stub.cookie, ""
        try:
            with self.assertRaises(vim.fault.NotAuthenticated):
                self.si.CurrentTime()
            with self.assertRaises(vim.fault.NotAuthenticated):
                self.vm.config
            with self.assertRaises(vim.fault.NotAuthenticated):
                self.vm.CreateSnapshot_Task("x", "", False, False)
            self.assertIsNotNone(self.si.RetrieveContent())
        finally:
            self.si._stub.cookie = cookie

    def test_logout_ends_the_session(self):
        other = self.login()
        stub = other._stub
        cookie = stub.cookie
        other.content.sessionManager.Logout()
        stub.cookie = cookie
        with self.assertRaises(vim.fault.NotAuthenticated):
            vim.ServiceInstance("ServiceInstance", stub).CurrentTime()

    def test_forced_expiry_also_ends_a_wait(self):
        collector = self.content.propertyCollector
        spec = vmodl.query.PropertyCollector.FilterSpec(
            objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=self.vm)],
            propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])])
        collector.CreateFilter(spec, True)
        version = collector.WaitForUpdatesEx("").version
        timer = threading.Timer(0.5, lambda: self.lab.control("POST", "/sessions/expire"))
        timer.start()
        with self.assertRaises(vim.fault.NotAuthenticated):
            collector.WaitForUpdatesEx(version)
        timer.join()
        with self.assertRaises(vim.fault.NotAuthenticated):
            self.vm.name
        self.si = self.login()
        self.assertEqual(vim.VirtualMachine(self.vm._moId, self.si._stub).name, "web01")

    def test_idle_timeout(self):
        self.lab.settings(idle_timeout_s=15)  # much longer than a busy machine may hold up the next line
        for _ in range(8):  # in use it lives on
            time.sleep(2)
            self.si.CurrentTime()
        time.sleep(16)
        with self.assertRaises(vim.fault.NotAuthenticated):
            self.si.CurrentTime()

    def test_expire_by_script(self):
        self.lab.fault(service="vsphere", method="CurrentTime", kind="expire")
        with self.assertRaises(vim.fault.NotAuthenticated):
            self.si.CurrentTime()


class Inventory(VCenterCase):
    def test_lookup(self):
        index = self.content.searchIndex
        self.assertEqual(index.FindByUuid(None, self.vm.config.uuid, True, False), self.vm)
        self.assertEqual(index.FindByUuid(None, self.vm.config.instanceUuid, True, True), self.vm)
        first = index.FindByInventoryPath("/DC0/vm/Production/app01")
        second = index.FindByInventoryPath("/DC0/vm/Test/app01")
        self.assertEqual((first.name, second.name), ("app01", "app01"))
        self.assertNotEqual(first, second)
        self.assertIsNone(index.FindByInventoryPath("/DC0/vm/web99"))

    def test_hardware(self):
        config = self.vm.config
        self.assertEqual((config.firmware, config.version, config.name), ("bios", "vmx-19", "web01"))
        disks = disks_of(config)
        self.assertEqual(sorted(disks), [2000, 2001])
        self.assertEqual(disks[2000].backing.fileName, "[LocalDS_0] web01/web01.vmdk")
        self.assertEqual(disks[2001].backing.fileName, "[LocalDS_0] web01/web01_1.vmdk")
        self.assertTrue(disks[2000].backing.thinProvisioned)
        self.assertTrue(disks[2000].diskObjectId.endswith("-2000"))
        self.assertEqual([disks[2000].capacityInBytes, disks[2001].capacityInBytes], [48 * 2**20 + 5 * 512, 32 * 2**20 + 512])
        self.assertTrue([d for d in config.hardware.device if isinstance(d, vim.vm.device.ParaVirtualSCSIController)])
        cards = [d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualVmxnet3)]
        self.assertEqual(len(cards), 2)
        self.assertTrue(all(c.macAddress.startswith("00:50:56:") for c in cards))
        self.assertEqual(self.vm.guest.toolsRunningStatus, "guestToolsRunning")
        self.lab.settings(tools="notRunning")
        self.assertEqual(self.vm.guest.toolsRunningStatus, "guestToolsNotRunning")

    def test_paging(self):
        view = self.content.viewManager.CreateContainerView(self.content.rootFolder, [vim.VirtualMachine], True)
        collector = self.content.propertyCollector
        spec = vmodl.query.PropertyCollector.FilterSpec(
            objectSet=[vmodl.query.PropertyCollector.ObjectSpec(
                obj=view, skip=True, selectSet=[vmodl.query.PropertyCollector.TraversalSpec(
                    name="all", path="view", skip=False, type=vim.view.ContainerView)])],
            propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])])
        result = collector.RetrievePropertiesEx([spec], vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=7))
        names, pages = [], 1
        while True:
            self.assertLessEqual(len(result.objects), 7)
            names += [o.propSet[0].val for o in result.objects]
            if not result.token:
                break
            token = result.token
            result = collector.ContinueRetrievePropertiesEx(token)
            pages += 1
        self.assertEqual(len(names), len(view.view))
        self.assertIn("web01", names)
        self.assertGreater(pages, 5)
        with self.assertRaises(vmodl.fault.InvalidArgument):
            collector.ContinueRetrievePropertiesEx(token)
        with self.assertRaises(vmodl.query.InvalidProperty):
            spec.propSet[0].pathSet = ["config.nonsense"]
            collector.RetrievePropertiesEx([spec], vmodl.query.PropertyCollector.RetrieveOptions())

    def test_updates_have_versions(self):
        collector = self.content.propertyCollector.CreatePropertyCollector()
        spec = vmodl.query.PropertyCollector.FilterSpec(
            objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=self.vm)],
            propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=["config.annotation", "recentTask"])])
        collector.CreateFilter(spec, False)
        first = collector.WaitForUpdatesEx("")
        self.assertEqual(first.filterSet[0].objectSet[0].kind, "enter")
        short = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=1)
        started = time.monotonic()
        self.assertIsNone(collector.WaitForUpdatesEx(first.version, short))
        self.assertGreater(time.monotonic() - started, 0.8)
        self.wait(self.vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="changed %s" % time.monotonic())))
        second = collector.WaitForUpdatesEx(first.version, short)
        self.assertNotEqual(second.version, first.version)
        again = collector.WaitForUpdatesEx(first.version, short)  # as after a lost reply
        names = {c.name for u in again.filterSet[0].objectSet for c in u.changeSet}
        self.assertIn("config.annotation", names)
        with self.assertRaises(vmodl.query.InvalidCollectorVersion):
            collector.WaitForUpdatesEx("4711", short)
        beside = vmodl.query.PropertyCollector(collector._moId, self.login_beside())
        ended = threading.Event()

        def cancel():
            while not ended.wait(0.3):  # again and again: one that comes before the wait cancels nothing
                beside.CancelWaitForUpdates()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            with self.assertRaises(vmodl.fault.RequestCanceled):
                collector.WaitForUpdatesEx(again.version)
        finally:
            ended.set()
            canceller.join()
        collector.Destroy()
        with self.assertRaises(vmodl.fault.ManagedObjectNotFound):
            collector.WaitForUpdatesEx(again.version, short)

    def login_beside(self):
        """A second connection of the same session."""
        stub = connect.SoapStubAdapter(host=self.lab.host, port=self.lab.port, version=self.si._stub.version,
                                       sslContext=self.lab.tls)
        stub.cookie = self.si._stub.cookie
        return stub

    def test_privileges(self):
        manager = self.content.authorizationManager
        granted = manager.HasPrivilegeOnEntities([self.vm], self.content.sessionManager.currentSession.key,
                                                 ["VirtualMachine.Provisioning.DiskRandomRead"])
        self.assertTrue(granted[0].privAvailability[0].isGranted)

    def test_kinds_of_disk(self):
        kinds = [({"bytes": 2**20, "mode": "independent_persistent"}, lambda d: d.backing.diskMode == "independent_persistent"),
                 ({"bytes": 2**20, "backing": "rdm-physical"}, lambda d: d.backing.compatibilityMode == "physicalMode"),
                 ({"bytes": 2**20, "backing": "shared"}, lambda d: d.backing.sharing == "sharingMultiWriter"),
                 ({"bytes": 2**20, "backing": "shared-bus"}, lambda d: d.controllerKey == 1001)]
        for ask, right in kinds:
            key = self.lab.control("POST", "/vms/web01/disks", ask)["key"]
            try:
                self.assertTrue(right(disks_of(self.vm.config)[key]), ask)
            finally:
                self.lab.control("DELETE", "/vms/web01/disks/%d" % key)
            self.assertNotIn(key, disks_of(self.vm.config))
        self.lab.control("POST", "/vms/web01/config", {"firmware": "efi", "secure_boot": True})
        try:
            self.assertEqual(self.vm.config.firmware, "efi")
            self.assertTrue(self.vm.config.bootOptions.efiSecureBootEnabled)
        finally:
            self.lab.control("POST", "/vms/web01/config", {"firmware": "bios", "secure_boot": False})


class Privileges(VCenterCase):
    """A session of the restricted user beside the administrator's."""

    def setUp(self):
        super().setUp()
        self.other = self.login(user=self.lab.restricted)
        self.addCleanup(connect.Disconnect, self.other)
        self.limited = vim.VirtualMachine(self.vm._moId, self.other._stub)
        self.key = self.other.content.sessionManager.currentSession.key
        self.datacenter = self.content.searchIndex.FindByInventoryPath("/DC0")

    def take(self, *privileges, **on):
        self.lab.control("POST", "/privileges", {"take": list(privileges), **on})

    def granted(self, entity, *privileges, si=None, key=None):
        manager = (si or self.other).content.authorizationManager
        entity = type(entity)(entity._moId, manager._stub)
        found = manager.HasPrivilegeOnEntities([entity], key or self.key, list(privileges))
        self.assertEqual([f.entity._moId for f in found], [entity._moId])
        self.assertEqual([p.privId for p in found[0].privAvailability], list(privileges))
        answers = [p.isGranted for p in found[0].privAvailability]
        self.assertEqual(list(manager.HasPrivilegeOnEntity(entity, key or self.key, list(privileges))), answers)
        return answers

    def denied(self, entity, privilege, act):
        with self.assertRaises(vim.fault.NoPermission) as caught:
            act()
        self.assertEqual((caught.exception.object._moId, caught.exception.privilegeId), (entity._moId, privilege))

    def test_answers_are_those_of_the_session(self):
        role = self.lab.control("GET", "/privileges")["role"]
        everywhere = [self.vm, self.datacenter, self.vm.datastore[0], *self.vm.network]
        for entity in everywhere:
            self.assertEqual(self.granted(entity, *role, "System.Read", "VirtualMachine.Interact.PowerOn"), [True] * 8 + [False])
            self.assertEqual(self.granted(entity, "VirtualMachine.Interact.PowerOn", "No.Such", si=self.si,
                                          key=self.content.sessionManager.currentSession.key), [True, False])
        self.assertEqual(self.granted(self.vm, "VirtualMachine.Interact.PowerOn", si=self.si), [False], "the session asked about counts")
        self.assertEqual(self.granted(self.vm, role[0], key="no-such-session"), [False])
        for kind, entity in (("VirtualMachine", self.vm), ("Datacenter", self.datacenter), ("Datastore", self.vm.datastore[0]),
                             ("Network", self.vm.network[-1])):
            self.lab.control("DELETE", "/privileges")
            self.take(role[0], role[-1], kind=kind)
            for other in everywhere:
                hit = other == entity or kind == "Network" and other in self.vm.network
                self.assertEqual(self.granted(other, role[0], role[1], role[-1]), [not hit, True, not hit])
        self.lab.control("DELETE", "/privileges")
        self.take(role[0])
        self.assertEqual({self.granted(entity, role[0])[0] for entity in everywhere}, {False})

    def test_by_the_name_of_a_user(self):
        told = self.lab.control("GET", "/privileges")
        role = told["role"] + told["hotadd_role"]
        manager = self.content.authorizationManager
        found = manager.FetchUserPrivilegeOnEntities([self.vm], self.lab.restricted)
        self.assertEqual(sorted(found[0].privileges), sorted([*role, "System.Anonymous", "System.Read", "System.View"]))
        found = manager.HasUserPrivilegeOnEntities([self.vm], self.lab.restricted, [role[0], "VirtualMachine.Interact.PowerOn"])
        self.assertEqual([p.isGranted for p in found[0].privAvailability], [True, False])

    def test_above_the_datacenter_there_is_only_a_view(self):
        root = self.other.content.rootFolder
        self.assertEqual((root.name, root.parent), ("Datacenters", None))
        self.assertEqual([c.name for c in root.childEntity], ["DC0"])
        self.assertEqual(self.limited.name, "web01")
        self.denied(root, "System.Read", lambda: self.granted(root, "System.View"))
        spec = vmodl.query.PropertyCollector.FilterSpec(
            objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=root)],
            propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.Folder, pathSet=["name", "overallStatus"])])
        found = self.other.content.propertyCollector.RetrievePropertiesEx([spec], vmodl.query.PropertyCollector.RetrieveOptions())
        self.assertEqual([p.name for p in found.objects[0].propSet], ["name"])
        self.assertEqual([(m.path, m.fault.privilegeId) for m in found.objects[0].missingSet], [("overallStatus", "System.Read")])

    def test_calls_are_refused(self):
        snapshot = self.snapshot()
        limited = vim.vm.Snapshot(snapshot._moId, self.other._stub)
        spec = vim.vm.ConfigSpec
        for privilege, act in (
                ("VirtualMachine.State.CreateSnapshot", lambda: self.limited.CreateSnapshot_Task("x", "", False, False)),
                ("VirtualMachine.State.RemoveSnapshot", lambda: limited.RemoveSnapshot_Task(False, True)),
                ("VirtualMachine.State.RemoveSnapshot", lambda: self.limited.RemoveAllSnapshots_Task(True)),
                ("VirtualMachine.State.RemoveSnapshot", lambda: self.limited.ConsolidateVMDisks_Task()),
                ("VirtualMachine.Config.ChangeTracking", lambda: self.limited.ReconfigVM_Task(spec(changeTrackingEnabled=True))),
                ("VirtualMachine.Provisioning.DiskRandomRead", lambda: self.limited.QueryChangedDiskAreas(limited, 2000, 0, "*")),
                ("VirtualMachine.Interact.PowerOff", lambda: self.limited.PowerOffVM_Task()),
                ("VirtualMachine.Interact.PowerOff", lambda: self.limited.ShutdownGuest())):
            self.lab.control("DELETE", "/privileges")
            self.take(privilege, kind="VirtualMachine")
            self.denied(self.vm, privilege, act)
        self.lab.control("DELETE", "/privileges")
        self.denied(self.vm, "VirtualMachine.Interact.PowerOn", lambda: self.limited.PowerOnVM_Task())
        self.denied(self.vm, "VirtualMachine.Config.CPUCount", lambda: self.limited.ReconfigVM_Task(spec(numCPUs=4)))
        with self.assertRaises(vmodl.fault.NotSupported):
            self.limited.Rename_Task("other")
        self.wait(limited.RemoveSnapshot_Task(False, True))

    def test_files_are_refused(self):
        basic = base64.b64encode(("%s:%s" % (self.lab.restricted, self.lab.password)).encode()).decode()
        cookie = {"Cookie": self.other._stub.cookie.split(";")[0]}
        for headers in ({"Authorization": "Basic " + basic}, cookie):
            self.lab.control("DELETE", "/privileges")
            self.assertEqual(self.lab.folder("web01/web01.vmdk", headers)[0], 200)
            for privilege in ("Datastore.Browse", "Datastore.FileManagement"):
                for kind, status in (("Datastore", 403), ("Datacenter", 403), ("VirtualMachine", 200)):
                    self.lab.control("DELETE", "/privileges")
                    self.take(privilege, kind=kind)
                    self.assertEqual(self.lab.folder("web01/web01.vmdk", headers)[0], status, (privilege, kind))
        self.assertEqual(self.lab.folder("web01/web01.vmdk", self.cookie())[0], 200)

    def test_wrong_settings(self):
        for wrong in ({}, {"take": ["System.Read"]}, {"take": ["Datastore.Browse"], "kind": "Host"}, {"give": ["Datastore.Browse"]}):
            with self.assertRaises(ControlError):
                self.lab.control("POST", "/privileges", wrong)
        self.assertEqual(self.lab.control("GET", "/privileges")["taken"], [])


class Power(VCenterCase):
    def test_shutdown(self):
        self.lab.settings(tools="notRunning")
        with self.assertRaises(vim.fault.ToolsUnavailable):
            self.vm.ShutdownGuest()
        self.lab.settings(tools="running", shutdown_delay_ms=10000)
        self.vm.ShutdownGuest()
        self.assertEqual(self.vm.runtime.powerState, "poweredOn")
        self.wait_for(lambda: self.vm.runtime.powerState != "poweredOn", what="the guest's end")
        self.assertEqual(self.vm.runtime.powerState, "poweredOff")
        writes = self.lab.control("GET", "/vms/web01")["writer"]["writes"]
        time.sleep(0.3)
        self.assertEqual(self.lab.control("GET", "/vms/web01")["writer"]["writes"], writes)
        path = self.lab.frozen("powered-off")[2000]
        status, _, body = self.lab.folder("web01/web01-flat.vmdk", self.cookie())
        self.assertEqual(status, 200)
        with open(path, "rb") as image:
            self.assertEqual(body, image.read())
        with self.assertRaises(vim.fault.InvalidPowerState):
            self.vm.ShutdownGuest()
        with self.assertRaises(vim.fault.InvalidPowerState):
            self.wait(self.vm.PowerOffVM_Task())
        self.wait(self.vm.PowerOnVM_Task())
        self.assertEqual(self.vm.runtime.powerState, "poweredOn")
        self.assertTrue(self.lab.control("GET", "/vms/web01")["writer"]["running"])
        with self.assertRaises(KeyError):
            self.lab.frozen("powered-off")

    def test_off_with_snapshots(self):
        snap = self.snapshot("kept")
        self.enable_tracking()
        last = self.snapshot("last")
        change = disks_of(last.config)[2000].backing.changeId
        self.wait_for_writes()
        self.wait(self.vm.PowerOffVM_Task())
        final = self.snapshot("final")
        with open(self.lab.frozen("powered-off")[2000], "rb") as off, open(self.lab.frozen(final._moId)[2000], "rb") as frozen:
            self.assertEqual(off.read(), frozen.read())
        self.assertTrue(data_ranges(self.changed(final, 2000, change, disks_of(final.config)[2000].capacityInBytes)))
        self.remove(snap)


class BareHost(VCenterCase):
    esxi = True

    def test_profile(self):
        self.assertEqual(self.content.about.apiType, "HostAgent")
        self.assertEqual(self.lab.vm_path, "/ha-datacenter/vm/web01")
        with self.assertRaises(vmodl.fault.NotImplemented):
            self.content.sessionManager.SessionIsActive("x", "root")

    def test_privileges_are_kept_but_not_told(self):
        other = self.login(user=self.lab.restricted)
        self.addCleanup(connect.Disconnect, other)
        manager, limited = other.content.authorizationManager, vim.VirtualMachine(self.vm._moId, other._stub)
        with self.assertRaises(vmodl.fault.NotImplemented):
            manager.HasPrivilegeOnEntities([limited], other.content.sessionManager.currentSession.key, ["System.Read"])
        with self.assertRaises(vim.fault.NoPermission):
            limited.PowerOnVM_Task()

    def test_rounds_and_folder(self):
        self.check_rounds()
        snap = self.vm.snapshot.currentSnapshot
        self.assertRegex(snap._moId, r"^\d+-snapshot-\d+$")
        with open(self.lab.frozen(snap._moId)[2000], "rb") as frozen:
            expected = frozen.read()
        for query in (None, "dsName=LocalDS_0"):
            status, _, body = self.lab.folder("web01/web01-flat.vmdk", self.cookie(), query=query)
            self.assertEqual(status, 200)
            self.assertEqual(body, expected)


if __name__ == "__main__":
    unittest.main(verbosity=2)
