# A test case against the lab's vCenter, seen through pyvmomi: a client that knows nothing of this project. A
# failure is a bug of the lab. Run with the venv's python:
#   VMFERRY_LAB_BIN=.../vmferry-lab python -m unittest -v test_vcenter   (in this folder)
import time
import unittest

from pyVim import connect, task as tasks
from pyVmomi import vim

from lab import Lab

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

    def wait_for(self, condition, seconds=120, what="the condition"):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, what + " did not come true")
            time.sleep(0.05)

    def wait_for_writes(self, count=300):
        """Of the guest: enough for each disk to have some in many places."""
        writes = lambda: self.lab.control("GET", "/vms/web01")["writer"]["writes"]
        before = writes()
        self.wait_for(lambda: writes() >= before + count, what="writes of the guest")

    def check_rounds(self):
        """Applies what the call says to the first round's bytes: exactly the second's."""
        self.enable_tracking()
        first = self.snapshot("first")
        old = {key: disk.backing.changeId for key, disk in disks_of(first.config).items()}
        before = {key: open(path, "rb").read() for key, path in self.lab.frozen(first._moId).items()}
        self.remove(first)
        self.wait_for_writes()
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
