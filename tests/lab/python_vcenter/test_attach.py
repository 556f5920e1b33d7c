# Disks of one VM attached to another (HotAdd), through pyvmomi and govc: a failure here is a bug of the lab.
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from pyVmomi import vim  # noqa: E402

from lab import Lab  # noqa: E402
from case import VCenterCase as Base, disks_of  # noqa: E402

Spec = vim.vm.device.VirtualDeviceSpec
Disk = vim.vm.device.VirtualDisk


def sha(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class AttachCase(Base):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="vmferry-guest-")
        cls.lab = Lab("--disks", "48M+5s,48M+5s", "--others", "5", "--proxy-root", cls.root)

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        subprocess.run(["rm", "-rf", cls.root], check=True)

    def setUp(self):
        super().setUp()
        self.lab.control("POST", "/vms/proxy01/config", {"enable_uuid": True})
        self.proxy = self.content.searchIndex.FindByInventoryPath("/DC0/vm/proxy01")
        self.snapshot = self.wait(self.vm.CreateSnapshot_Task("mine", "", False, False))
        self.frozen = disks_of(self.snapshot.config)

    def tearDown(self):
        for key in disks_of(self.proxy.config):
            if key != 2000:
                self.change(self.remove(key))
        super().tearDown()

    def change(self, *changes, version=None, **more):
        spec = vim.vm.ConfigSpec(deviceChange=list(changes), **more)
        if version:
            spec.changeVersion = version
        return self.wait(self.proxy.ReconfigVM_Task(spec))

    def add(self, key, unit, controller=1000, mode="independent_nonpersistent", file=None):
        backing = Disk.FlatVer2BackingInfo(fileName=file or self.frozen[key].backing.fileName, diskMode=mode)
        return Spec(operation="add", device=Disk(key=-1, controllerKey=controller, unitNumber=unit, capacityInKB=0, backing=backing))

    def remove(self, key, **more):
        return Spec(operation="remove", device=disks_of(self.proxy.config)[key], **more)

    def links(self, folder):
        place = pathlib.Path(self.root) / "dev/disk" / folder
        return {link.name: os.path.realpath(link) for link in place.iterdir()}

    def refused(self, fault, *changes, **more):
        with self.assertRaises(fault):
            self.change(*changes, **more)
        self.assertEqual(list(disks_of(self.proxy.config)), [2000])

    def test_the_bytes_by_uuid_and_by_place(self):
        self.change(self.add(2000, 1), self.add(2001, 3))
        frozen = self.lab.frozen(self.snapshot._GetMoId())
        by_id, by_path = self.links("by-id"), self.links("by-path")
        for key, unit in ((2000, 1), (2001, 3)):
            uuid = self.frozen[key].backing.uuid.replace("-", "").lower()
            device = by_path["pci-0000:03:00.0-scsi-0:0:%d:0" % unit]
            self.assertEqual(by_id["wwn-0x" + uuid], device)
            self.assertEqual(by_id["scsi-3" + uuid], device)
            self.assertEqual(sha(device), sha(frozen[key]))
        shown = disks_of(self.proxy.config)[2001]
        self.assertEqual((shown.backing.fileName, shown.backing.diskMode, shown.capacityInBytes),
                         (self.frozen[2000].backing.fileName, "independent_nonpersistent", 48 * 1024 * 1024 + 5 * 512))
        self.change(self.remove(2001), self.remove(2003))
        self.assertEqual((self.links("by-id"), self.links("by-path")), ({}, {}))
        self.assertTrue(os.path.exists(self.lab.path("datastore", "web01", "web01-flat.vmdk")))
        self.wait(self.snapshot.RemoveSnapshot_Task(False))
        self.assertFalse(self.vm.runtime.consolidationNeeded)

    def test_without_uuids(self):
        self.lab.control("POST", "/vms/proxy01/config", {"enable_uuid": False})
        self.change(self.add(2000, 1))
        self.assertEqual(self.links("by-id"), {})
        self.assertEqual(list(self.links("by-path")), ["pci-0000:03:00.0-scsi-0:0:1:0"])

    def test_a_controller_comes_with_a_disk(self):
        controller = vim.vm.device.ParaVirtualSCSIController(key=-7, busNumber=1, sharedBus="noSharing")
        self.change(Spec(operation="add", device=controller), self.add(2000, 0, controller=-7))
        shown = disks_of(self.proxy.config)[2016]
        self.assertEqual((shown.controllerKey, shown.unitNumber), (1001, 0))
        self.assertEqual({o.key: o.value for o in self.proxy.config.extraConfig}["scsi1.pciSlotNumber"], "224")
        self.assertEqual(list(self.links("by-path")), ["pci-0000:13:00.0-scsi-0:0:0:0"])

    def test_what_is_refused(self):
        self.refused(vim.fault.InvalidDeviceSpec, self.add(2000, 7))
        self.refused(vim.fault.InvalidDeviceSpec, self.add(2000, 0))
        self.refused(vim.fault.InvalidDeviceSpec, self.add(2000, 16))
        self.refused(vim.fault.InvalidDeviceSpec, self.add(2000, 0, controller=200))
        self.refused(vim.fault.InvalidDeviceSpec, self.add(2000, 1), self.add(2001, 1))  # neither of them came
        self.refused(vim.fault.FileLocked, self.add(2000, 1, mode="persistent"))
        live = disks_of(self.vm.config)[2000].backing.fileName
        self.refused(vim.fault.FileLocked, self.add(2000, 1, file=live))
        self.refused(vim.fault.FileNotFound, self.add(2000, 1, file="[LocalDS_0] web01/nothing.vmdk"))
        old = self.proxy.config.changeVersion
        self.change(annotation=None, extraConfig=[vim.option.OptionValue(key="a.b", value="c")])
        self.refused(vim.fault.ConcurrentAccess, self.add(2000, 1), version=old)

    def test_a_snapshot_goes_while_its_disk_is_attached(self):
        self.change(self.add(2000, 1))
        with self.assertRaises(vim.fault.FileLocked):
            self.wait(self.snapshot.RemoveSnapshot_Task(False))
        self.assertIsNone(self.vm.snapshot)
        self.assertTrue(self.vm.runtime.consolidationNeeded)
        with self.assertRaises(vim.fault.FileLocked):
            self.wait(self.vm.ConsolidateVMDisks_Task())
        self.change(self.remove(2001))
        self.wait(self.vm.ConsolidateVMDisks_Task())
        self.assertFalse(self.vm.runtime.consolidationNeeded)

    def test_govc(self):
        environment = {**os.environ, "GOVC_URL": f"https://{self.lab.host}:{self.lab.port}", "GOVC_USERNAME": self.lab.username,
                       "GOVC_PASSWORD": self.lab.password, "GOVC_TLS_CA_CERTS": self.lab.path("ca.pem")}

        def govc(*words):
            done = subprocess.run([os.environ["GOVC"], *words], env=environment, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout

        govc("vm.disk.attach", "-vm", "proxy01", "-ds", "LocalDS_0", "-disk", "web01/web01.vmdk", "-link=false",
             "-mode", "independent_nonpersistent")
        attached = [d for key, d in disks_of(self.proxy.config).items() if key != 2000]
        self.assertEqual([d.backing.fileName for d in attached], ["[LocalDS_0] web01/web01.vmdk"])
        self.assertIn("web01/web01.vmdk", govc("device.info", "-vm", "proxy01", "disk-*"))
        self.change(self.remove(attached[0].key))

    def test_destroy_destroys(self):
        """The owner's disk is gone afterwards, so this has a lab of its own."""
        lab = Lab("--disks", "16M,16M", "--others", "0", "--proxy-root", self.root + "/other")
        kept, self.lab = self.lab, lab
        try:
            self.si, session = self.login(), self.si
            content = self.si.RetrieveContent()
            vm = content.searchIndex.FindByInventoryPath(lab.vm_path)
            self.proxy = content.searchIndex.FindByInventoryPath("/DC0/vm/proxy01")
            self.frozen = disks_of(self.wait(vm.CreateSnapshot_Task("mine", "", False, False)).config)
            self.change(self.add(2000, 1))
            self.change(self.remove(2001, fileOperation="destroy"))
            self.assertFalse(os.path.exists(lab.path("datastore", "web01", "web01-flat.vmdk")))
        finally:
            self.lab, self.si = kept, session
            self.proxy = self.si.RetrieveContent().searchIndex.FindByInventoryPath("/DC0/vm/proxy01")
            lab.stop()


del Base

if __name__ == "__main__":
    unittest.main()
