# The lab's vCenter, seen through pyvmomi: a client that knows nothing of this
# project. A failure here is a bug of the lab. Run with the venv's python:
#   VMFERRY_LAB_BIN=.../vmferry-lab python -m unittest -v test_vcenter   (in this folder)
import base64
import http.client
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from pyVim import connect, task as tasks  # noqa: E402
from pyVmomi import vim, vmodl  # noqa: E402

from lab import ControlError, Lab  # noqa: E402

SMALL = ("--disks", "48M+5s,32M+1s", "--others", "30")


def disks_of(config):
    return {d.key: d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)}


def data_ranges(pages):
    return [(a.start, a.length) for page in pages for a in page.changedArea]


class VCenterCase(unittest.TestCase):
    """One server for the class, one session and a clean VM for each test."""

    esxi = False

    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(*SMALL, esxi=cls.esxi)

    @classmethod
    def tearDownClass(cls):
        cls.lab.stop()

    def setUp(self):
        self.lab.control("DELETE", "/faults")
        self.lab.control("DELETE", "/privileges")
        self.lab.settings(task_delay_ms=20, page_areas=2000, folder_rate_mb_s=0, folder_latency_ms=0,
                          idle_timeout_s=1800, quiesce_fails=False, tools="running", shutdown_delay_ms=100)
        self.lab.control("POST", "/vms/web01/power", {"state": "on"})
        self.lab.control("POST", "/vms/web01/wrong-answers", {"mode": "off"})
        for snap in reversed(self.lab.control("GET", "/vms/web01")["snapshots"]):
            self.lab.control("DELETE", "/vms/web01/snapshots/" + snap["id"])
        self.lab.control("POST", "/vms/web01/writer", {"running": True, "rate_mb_s": 20})
        self.si = self.login()
        self.content = self.si.RetrieveContent()
        self.vm = self.content.searchIndex.FindByInventoryPath(self.lab.vm_path)
        self.assertIsNotNone(self.vm)

    def tearDown(self):
        try:
            connect.Disconnect(self.si)
        except vim.fault.NotAuthenticated:
            pass  # the test let it expire

    def login(self, password=None, user=None):
        return connect.SmartConnect(host=self.lab.host, port=self.lab.port, user=user or self.lab.username,
                                    pwd=password or self.lab.password, sslContext=self.lab.tls)

    def cookie(self):
        # pyvmomi keeps what Set-Cookie said: name, value in quotes, attributes.
        return {"Cookie": self.si._stub.cookie.split(";")[0]}

    def wait(self, task):
        tasks.WaitForTask(task, si=self.si)
        return task.info.result

    def snapshot(self, name="test", quiesce=False):
        return self.wait(self.vm.CreateSnapshot_Task(name, "made by a test", False, quiesce))

    def remove(self, snapshot, children=False):
        self.wait(snapshot.RemoveSnapshot_Task(children, True))

    def enable_tracking(self):
        if not self.vm.config.changeTrackingEnabled:
            self.wait(self.vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        if not all(d.backing.changeId for d in disks_of(self.vm.config).values()):
            self.remove(self.snapshot("activate"))

    def changed(self, snapshot, key, change_id, size):
        pages, at = [], 0
        while at < size:
            page = self.vm.QueryChangedDiskAreas(snapshot, key, at, change_id)
            self.assertEqual(page.startOffset, at)
            self.assertGreater(page.length, 0)
            pages.append(page)
            at += page.length
        self.assertEqual(at, size)
        return pages


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
        self.lab.settings(idle_timeout_s=1)
        for _ in range(4):  # in use it lives on
            time.sleep(0.5)
            self.si.CurrentTime()
        time.sleep(1.5)
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
        timer = threading.Timer(0.3, lambda: vmodl.query.PropertyCollector(
            collector._moId, self.login_beside()).CancelWaitForUpdates())
        timer.start()
        with self.assertRaises(vmodl.fault.RequestCanceled):
            collector.WaitForUpdatesEx(again.version)
        timer.join()
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
        role = self.lab.control("GET", "/privileges")["role"]
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


class Snapshots(VCenterCase):
    def test_tree_and_files(self):
        first = self.snapshot("one")
        second = self.snapshot("two")
        tree = self.vm.snapshot.rootSnapshotList
        self.assertEqual((tree[0].name, tree[0].childSnapshotList[0].name), ("one", "two"))
        self.assertEqual(self.vm.snapshot.currentSnapshot, second)
        self.assertEqual(disks_of(self.vm.config)[2000].backing.fileName, "[LocalDS_0] web01/web01-000002.vmdk")
        self.assertEqual(disks_of(self.vm.config)[2000].backing.parent.parent.fileName, "[LocalDS_0] web01/web01.vmdk")
        self.assertEqual(disks_of(first.config)[2000].backing.fileName, "[LocalDS_0] web01/web01.vmdk")
        self.assertEqual(disks_of(second.config)[2000].backing.fileName, "[LocalDS_0] web01/web01-000001.vmdk")
        self.remove(first)
        with self.assertRaises(vmodl.fault.ManagedObjectNotFound):
            first.config
        self.assertEqual(self.vm.snapshot.rootSnapshotList[0].name, "two")
        self.assertEqual(disks_of(second.config)[2000].backing.fileName, "[LocalDS_0] web01/web01.vmdk")
        self.snapshot("three")
        self.remove(second, children=True)
        self.assertIsNone(self.vm.snapshot)
        self.assertEqual(disks_of(self.vm.config)[2000].backing.fileName, "[LocalDS_0] web01/web01.vmdk")
        self.assertFalse(self.vm.runtime.consolidationNeeded)

    def test_quiesce(self):
        self.assertTrue(self.snapshot("quiesced", quiesce=True))
        self.assertTrue(self.vm.snapshot.rootSnapshotList[0].quiesced)
        self.lab.settings(quiesce_fails=True)
        with self.assertRaises(vim.fault.ApplicationQuiesceFault):
            self.snapshot("fails", quiesce=True)
        self.lab.settings(tools="notRunning")
        with self.assertRaises(vim.fault.ToolsUnavailable):
            self.snapshot("no tools", quiesce=True)
        self.assertTrue(self.snapshot("plain"))

    def test_task_is_seen_on_its_way(self):
        self.lab.settings(task_delay_ms=1500)
        task = self.vm.CreateSnapshot_Task("slow", "", False, False)
        self.assertIn(task.info.state, ("queued", "running"))
        self.assertIn(task, self.vm.recentTask)
        self.assertEqual(task.info.descriptionId, "VirtualMachine.createSnapshot")
        with self.assertRaises(vim.fault.TaskInProgress):
            self.vm.CreateSnapshot_Task("second", "", False, False)
        seen = set()
        while task.info.state not in ("success", "error"):
            seen.add(task.info.progress)
            time.sleep(0.1)
        self.assertEqual(task.info.state, "success")
        self.assertGreater(len(seen - {None}), 1)

    def test_consolidation_fails_by_script(self):
        snap = self.snapshot("stuck")
        self.lab.fault(service="vsphere", method="consolidate:RemoveSnapshot_Task", kind="fault", fault="FileFault")
        with self.assertRaises(vim.fault.FileFault):
            self.remove(snap)
        self.assertIsNone(self.vm.snapshot)
        self.assertTrue(self.vm.runtime.consolidationNeeded)
        self.wait(self.vm.ConsolidateVMDisks_Task())
        self.assertFalse(self.vm.runtime.consolidationNeeded)

    def test_shared_disk_refuses_snapshots(self):
        key = self.lab.control("POST", "/vms/web01/disks", {"bytes": 2**20, "backing": "shared-bus"})["key"]
        try:
            with self.assertRaises(vim.fault.SnapshotIncompatibleDeviceInVm):
                self.snapshot()
        finally:
            self.lab.control("DELETE", "/vms/web01/disks/%d" % key)

    def test_faults_by_script(self):
        self.lab.fault(service="vsphere", method="CreateSnapshot_Task", kind="fault", fault="RestrictedVersion")
        with self.assertRaises(vim.fault.RestrictedVersion) as caught:
            self.snapshot()
        self.assertIn("Current license or ESXi version prohibits execution", caught.exception.msg)
        self.lab.fault(service="vsphere", method="task:CreateSnapshot_Task", kind="fault", fault="ApplicationQuiesceFault")
        with self.assertRaises(vim.fault.ApplicationQuiesceFault):
            self.snapshot()
        self.lab.fault(service="vsphere", method="CreateSnapshot_Task", kind="lost-reply")
        with self.assertRaises((OSError, http.client.HTTPException)):
            self.vm.CreateSnapshot_Task("lost", "", False, False)
        deadline = time.monotonic() + 10
        while self.vm.snapshot is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.vm.snapshot.rootSnapshotList[0].name, "lost")
        log = [c for c in self.lab.control("GET", "/calls") if c["method"] == "CreateSnapshot_Task"]
        self.assertEqual(log[-1]["fault"], "lost-reply")
        self.assertEqual(log[-1]["path_or_object"], self.vm._moId)
        with self.assertRaises(ControlError):
            self.lab.fault(kind="nonsense")


class ChangeTracking(VCenterCase):
    def setUp(self):
        super().setUp()
        self.wait(self.vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))
        self.remove(self.snapshot("off"))

    def test_takes_effect_after_a_stun(self):
        self.assertFalse(self.vm.config.changeTrackingEnabled)
        with self.assertRaises(vim.fault.FileFault):
            self.vm.QueryChangedDiskAreas(self.snapshot("untracked"), 2000, 0, "*")
        self.wait(self.vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
        self.assertTrue(self.vm.config.changeTrackingEnabled)
        self.assertIsNone(disks_of(self.vm.config)[2000].backing.changeId)
        first = self.snapshot("stun")
        self.assertIsNone(disks_of(first.config)[2000].backing.changeId)
        self.assertRegex(disks_of(self.vm.config)[2000].backing.changeId, r"^[0-9a-f -]{47}/\d+$")
        options = {o.key: o.value for o in self.vm.config.extraConfig}
        self.assertEqual(options["scsi0:0.ctkEnabled"], "TRUE")
        second = self.snapshot("tracked")
        self.assertTrue(disks_of(second.config)[2001].backing.changeId)

    def test_one_disk_left_out(self):
        spec = vim.vm.ConfigSpec(changeTrackingEnabled=True,
                                 extraConfig=[vim.option.OptionValue(key="scsi0:1.ctkEnabled", value="FALSE")])
        self.wait(self.vm.ReconfigVM_Task(spec))
        self.remove(self.snapshot("activate"))
        snap = self.snapshot("tracked")
        self.assertTrue(disks_of(snap.config)[2000].backing.changeId)
        self.assertIsNone(disks_of(snap.config)[2001].backing.changeId)
        with self.assertRaises(vim.fault.FileFault):
            self.vm.QueryChangedDiskAreas(snap, 2001, 0, "*")

    def check_rounds(self):
        """Applies what the call says to the first round's bytes: exactly the second's."""
        self.enable_tracking()
        first = self.snapshot("first")
        old = {key: disk.backing.changeId for key, disk in disks_of(first.config).items()}
        before = {key: open(path, "rb").read() for key, path in self.lab.frozen(first._moId).items()}
        self.remove(first)
        time.sleep(0.5)
        second = self.snapshot("second")
        differing = 0
        all_pages = []
        for key, path in self.lab.frozen(second._moId).items():
            now = open(path, "rb").read()
            pages = self.changed(second, key, old[key], len(now))
            all_pages += pages
            merged = bytearray(before[key])
            for start, length in data_ranges(pages):
                self.assertEqual(start % 65536, 0)
                merged[start:start + length] = now[start:start + length]
            self.assertEqual(bytes(merged), now, "disk %d" % key)
            differing += before[key] != now
            allocated = self.changed(second, key, "*", len(now))
            whole = bytearray(len(now))
            for start, length in data_ranges(allocated):
                whole[start:start + length] = now[start:start + length]
            self.assertEqual(bytes(whole), now, "disk %d" % key)
        self.assertEqual(differing, 2, "the writer wrote nothing, so nothing was shown")
        return all_pages

    def test_small_pages(self):
        self.lab.settings(page_areas=3)
        pages = self.check_rounds()
        self.assertGreater(len(pages), 4)
        self.assertTrue(all(len(p.changedArea) <= 3 for p in pages))

    def test_empty_pages(self):
        self.lab.control("POST", "/vms/web01/wrong-answers", {"mode": "empty-first-page"})
        pages = self.check_rounds()
        self.assertTrue([p for p in pages[:-1] if not p.changedArea])

    def test_faults(self):
        self.enable_tracking()
        snap = self.snapshot("faults")
        disk = disks_of(snap.config)[2000]
        good = disk.backing.changeId

        def refused(kind, prop, *arguments):
            with self.assertRaises(kind) as caught:
                self.vm.QueryChangedDiskAreas(*arguments)
            if prop:
                self.assertEqual(caught.exception.invalidProperty, prop)

        refused(vmodl.fault.InvalidArgument, "startOffset", snap, 2000, disk.capacityInBytes, good)
        refused(vmodl.fault.InvalidArgument, "startOffset", snap, 2000, -1, good)
        refused(vmodl.fault.InvalidArgument, "deviceKey", snap, 2999, 0, good)
        refused(vmodl.fault.InvalidArgument, "changeId", snap, 2000, 0, "52 00 00 00 00 00 00 00-00 00 00 00 00 00 00 00/1")
        refused(vmodl.fault.InvalidArgument, "changeId", snap, 2000, 0, good.rsplit("/", 1)[0] + "/9999")
        refused(vmodl.fault.InvalidArgument, "changeId", snap, 2000, 0, "nonsense")
        self.lab.fault(service="vsphere", method="QueryChangedDiskAreas", kind="fault", fault="FileFault")
        refused(vim.fault.FileFault, None, snap, 2000, 0, good)
        self.remove(snap)
        refused(vmodl.fault.ManagedObjectNotFound, None, snap, 2000, 0, good)

    def test_reset_and_growth(self):
        self.enable_tracking()
        snap = self.snapshot("before")
        old = disks_of(snap.config)[2000].backing.changeId
        grown_id = disks_of(snap.config)[2001].backing.changeId
        self.remove(snap)
        self.lab.control("POST", "/vms/web01/cbt-reset", {"disk": 2000})
        self.lab.control("POST", "/vms/web01/grow", {"disk": 2001, "bytes": 33 * 2**20 + 512})
        snap = self.snapshot("after")
        fresh = disks_of(snap.config)[2000].backing.changeId
        self.assertNotEqual(fresh.split("/")[0], old.split("/")[0])
        with self.assertRaises(vmodl.fault.InvalidArgument):
            self.vm.QueryChangedDiskAreas(snap, 2000, 0, old)
        with self.assertRaises(vmodl.fault.InvalidArgument):
            self.vm.QueryChangedDiskAreas(snap, 2001, 0, grown_id)
        self.assertEqual(disks_of(snap.config)[2001].capacityInBytes, 33 * 2**20 + 512)
        with self.assertRaises(ControlError):
            self.lab.control("POST", "/vms/web01/grow", {"disk": 2001, "bytes": 64 * 2**20})

    def test_wrong_answer_misses_an_area(self):
        self.enable_tracking()
        first = self.snapshot("first")
        old = disks_of(first.config)[2000].backing.changeId
        self.remove(first)
        time.sleep(0.5)
        second = self.snapshot("second")
        size = disks_of(second.config)[2000].capacityInBytes
        right = data_ranges(self.changed(second, 2000, old, size))
        self.lab.control("POST", "/vms/web01/wrong-answers", {"mode": "drop-area"})
        wrong = data_ranges(self.changed(second, 2000, old, size))
        self.assertEqual(len(wrong), len(right) - 1)
        self.assertTrue(set(wrong) < set(right))


class Datastore(VCenterCase):
    FLAT = "web01/web01-flat.vmdk"

    def test_needs_a_session_or_password(self):
        self.snapshot()
        self.assertEqual(self.lab.folder(self.FLAT)[0], 401)
        self.assertEqual(self.lab.folder(self.FLAT, {"Cookie": 'vmware_soap_session="guess"'})[0], 401)
        wrong = base64.b64encode(b"root:wrong").decode()
        self.assertEqual(self.lab.folder(self.FLAT, {"Authorization": "Basic " + wrong})[0], 401)
        right = base64.b64encode((self.lab.username + ":" + self.lab.password).encode()).decode()
        self.assertEqual(self.lab.folder(self.FLAT, {"Authorization": "Basic " + right}, "HEAD")[0], 200)
        cookie = self.cookie()
        self.assertEqual(self.lab.folder(self.FLAT, cookie, "HEAD")[0], 200)
        self.lab.control("POST", "/sessions/expire")
        self.assertEqual(self.lab.folder(self.FLAT, cookie, "HEAD")[0], 401)

    def test_running_disk_is_locked(self):
        self.assertEqual(self.lab.folder(self.FLAT, self.cookie())[0], 500)
        self.assertEqual(self.lab.folder("web01/web01.vmdk", self.cookie())[0], 200)
        snap = self.snapshot()
        self.assertEqual(self.lab.folder(self.FLAT, self.cookie(), "HEAD")[0], 200)
        self.assertEqual(self.lab.folder("web01/web01-000001-delta.vmdk", self.cookie())[0], 403)
        self.remove(snap)
        self.assertEqual(self.lab.folder(self.FLAT, self.cookie())[0], 500)

    def test_frozen_bytes(self):
        snap = self.snapshot()
        for key, name in ((2000, self.FLAT), (2001, "web01/web01_1-flat.vmdk")):
            status, headers, body = self.lab.folder(name, self.cookie())
            self.assertEqual((status, headers["Accept-Ranges"]), (200, "bytes"))
            with open(self.lab.frozen(snap._moId)[key], "rb") as frozen:
                expected = frozen.read()
            self.assertEqual(int(headers["Content-Length"]), len(expected))
            self.assertEqual(body, expected)
            with open(self.lab.path("datastore", name), "rb") as mounted:
                self.assertEqual(mounted.read(), expected, "the datastore folder shows other bytes")

    def test_ranges(self):
        self.snapshot()
        _, _, whole = self.lab.folder(self.FLAT, self.cookie())
        size = len(whole)
        for spec, status, content in (("bytes=0-0", 206, whole[:1]), ("bytes=512-1535", 206, whole[512:1536]),
                                      ("bytes=%d-" % (size - 700), 206, whole[-700:]), ("bytes=-512", 206, whole[-512:]),
                                      ("bytes=%d-%d" % (size - 1, size + 5), 206, whole[-1:]), ("bytes=%d-" % size, 416, None)):
            got, headers, body = self.lab.folder(self.FLAT, dict(self.cookie(), Range=spec))
            self.assertEqual(got, status, spec)
            if content is None:
                self.assertEqual(headers["Content-Range"], "bytes */%d" % size)
            else:
                self.assertEqual(body, content, spec)
                self.assertTrue(headers["Content-Range"].endswith("/%d" % size))

    def test_wrong_place(self):
        self.snapshot()
        for query in ("dcPath=DC9&dsName=LocalDS_0", "dsName=LocalDS_0", "dcPath=DC0&dsName=LocalDS_7"):
            self.assertEqual(self.lab.folder(self.FLAT, self.cookie(), query=query)[0], 404, query)
        self.assertEqual(self.lab.folder("web01/../../password", self.cookie())[0], 404)
        self.assertEqual(self.lab.folder("nothere/x.vmdk", self.cookie())[0], 404)
        self.assertEqual(self.lab.folder(self.FLAT, self.cookie(), "PUT")[0], 405)

    def test_removed_snapshot_ends_a_read(self):
        snap = self.snapshot()
        self.lab.settings(folder_rate_mb_s=5)
        connection = http.client.HTTPSConnection(self.lab.host, self.lab.port, context=self.lab.tls, timeout=60)
        self.addCleanup(connection.close)
        connection.request("GET", "/folder/%s?dcPath=DC0&dsName=LocalDS_0" % self.FLAT, headers=self.cookie())
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        self.assertEqual(len(response.read(1 << 20)), 1 << 20)
        self.remove(snap)
        got = 1 << 20
        try:
            while True:
                piece = response.read(1 << 20)
                if not piece:
                    break  # http.client does not complain of a short body
                got += len(piece)
        except (OSError, http.client.HTTPException):
            pass
        self.assertLess(got, int(response.headers["Content-Length"]))

    def test_rate_and_latency(self):
        self.snapshot()
        self.lab.settings(folder_rate_mb_s=4, folder_latency_ms=200)
        started = time.monotonic()
        self.lab.folder(self.FLAT, dict(self.cookie(), Range="bytes=0-4194303"))
        took = time.monotonic() - started
        self.assertGreater(took, 0.9)
        self.assertLess(took, 10)

    def test_faults_by_script(self):
        self.snapshot()
        self.lab.fault(service="folder", method="GET", path_regex="web01-flat", kind="http", status=503, retry_after=1)
        status, headers, _ = self.lab.folder(self.FLAT, self.cookie())
        self.assertEqual((status, headers["Retry-After"]), (503, "1"))
        self.lab.fault(service="folder", kind="reset")
        with self.assertRaises((OSError, http.client.HTTPException)):
            self.lab.folder(self.FLAT, self.cookie())
        self.assertEqual(self.lab.folder(self.FLAT, self.cookie(), "HEAD")[0], 200)
        calls = [c for c in self.lab.control("GET", "/calls") if c["service"] == "folder"]
        self.assertEqual(calls[-1]["method"], "HEAD")


class Power(VCenterCase):
    def test_shutdown(self):
        self.lab.settings(tools="notRunning")
        with self.assertRaises(vim.fault.ToolsUnavailable):
            self.vm.ShutdownGuest()
        self.lab.settings(tools="running", shutdown_delay_ms=700)
        self.vm.ShutdownGuest()
        self.assertEqual(self.vm.runtime.powerState, "poweredOn")
        deadline = time.monotonic() + 10
        while self.vm.runtime.powerState == "poweredOn" and time.monotonic() < deadline:
            time.sleep(0.05)
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
        time.sleep(0.3)
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
        ChangeTracking.check_rounds(self)
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
