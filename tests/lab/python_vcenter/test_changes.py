# Snapshots, changed block tracking and the datastore's files of the lab's vCenter.
import base64
import http.client
import time
import unittest

from pyVmomi import vim, vmodl

from case import VCenterCase, data_ranges, disks_of
from lab import ControlError


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
        self.lab.settings(task_delay_ms=10000)
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
        self.wait_for(lambda: self.vm.snapshot is not None, what="the snapshot whose making was not answered")
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
        self.wait_for_writes()
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
        self.lab.settings(folder_rate_mb_s=1)  # it would take most of a minute
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
        self.assertLess(took, 60)

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


if __name__ == "__main__":
    unittest.main(verbosity=2)
