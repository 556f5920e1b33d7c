"""`cutover --target local:DIR --libvirt URI` with a real libvirt: a converted Linux guest boots in its domain, the domain is the
machine that it was, and what is there already is not touched. Takes minutes, and the packages of `tools/setup conversion`."""

import hashlib
import pathlib
import ssl
import sys
import unittest
import uuid

from pyVim import connect

from ferry import MigrationTest
from libvirt_daemon import Console, Libvirt, without_kvm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import guest_proof  # noqa: E402

SOMEBODY_ELSES = """<domain type="qemu"><name>web01</name><uuid>{uuid}</uuid><memory unit="MiB">64</memory>
<os><type arch="x86_64" machine="pc">hvm</type></os></domain>"""


class LibvirtTest(MigrationTest):
    @classmethod
    def setUpClass(cls):
        cls.libvirt = Libvirt()
        cls.addClassCleanup(cls.libvirt.down)
        super().setUpClass()

    def command(self, verb, *flags, **more):
        return without_kvm(super().command(verb, *flags, target="local", **more))

    def cutover_flags(self, *more):
        mappings = [word for mac in self.lab.vcenter["macs"] for word in ("--network-mapping", f"mac={mac},network-id=user")]
        return ["--libvirt", self.libvirt.uri, *mappings, *more]

    def images_now(self):
        return {file.name: (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest()) for file in (self.images / "web01").iterdir()}

    def source(self):
        """The machine as vCenter describes it, asked by somebody else's client."""
        vcenter = self.lab.vcenter
        host, port = vcenter["endpoint"].rsplit(":", 1)
        session = connect.SmartConnect(host=host, port=int(port), user=vcenter["username"],
                                       pwd=pathlib.Path(vcenter["password_file"]).read_text().strip(),
                                       sslContext=ssl.create_default_context(cafile=vcenter["ca"]))
        try:
            config = session.RetrieveContent().searchIndex.FindByInventoryPath(vcenter["vm_path"]).config
            devices = sorted(config.hardware.device, key=lambda device: device.key)
            return {
                "uuid": config.uuid,
                "memory": config.hardware.memoryMB << 10,
                "processors": config.hardware.numCPU,
                "adapters": [device.macAddress for device in devices if hasattr(device, "macAddress")],
                "disks": [str(device.key) for device in devices if hasattr(device, "capacityInKB")],
            }
        finally:
            connect.Disconnect(session)

    def domain(self):
        """The same of the domain that libvirt knows."""
        domain = self.libvirt.xml("web01")
        self.assertEqual(domain.find("memory").get("unit"), "KiB")
        disks = sorted(domain.findall("devices/disk"), key=lambda disk: int(disk.find("boot").get("order")))
        self.assertEqual([(disk.find("target").get("dev"), disk.find("target").get("bus")) for disk in disks],
                         [(f"vd{chr(ord('a') + i)}", "virtio") for i in range(len(disks))])
        adapters = domain.findall("devices/interface")
        self.assertEqual({(nic.get("type"), nic.find("model").get("type")) for nic in adapters}, {("user", "virtio")})
        return {
            "uuid": domain.findtext("uuid"),
            "memory": int(domain.findtext("memory")),
            "processors": int(domain.findtext("vcpu")),
            "adapters": [nic.find("mac").get("address") for nic in adapters],
            "disks": [pathlib.Path(disk.find("source").get("file")).stem.rsplit("-", 1)[1] for disk in disks],
        }


class BootTest(LibvirtTest):
    lab_flags = ("--guest", "linux", "--disks", "192M+37s,96M+1s", "--writer-rate", "5")

    def test_a_converted_guest_boots_in_its_domain(self):
        appliance = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
        self.ferry("migrate")
        self.prove("local")
        console = Console(self.libvirt, "web01", guest_proof.LAST_LINE)
        self.addCleanup(console.enough.set)
        cutover = self.cutover_flags()
        done = self.ferry("cutover", *cutover, timeout=3000, env=appliance)
        self.assertIn("(running)", done.out)
        self.assertEqual(self.lab.vm()["power"], "off")
        self.assert_nothing_left()
        console.wait(900)
        verdict = guest_proof.judge(console.lines, "in its domain", late=not console.heard_last, wait=900)
        self.assertTrue(verdict.good, verdict.words)
        self.assertEqual(self.domain(), self.source())

        # The guest switches itself off after its last word. The same command again does not start it anew.
        self.wait_for(lambda: self.libvirt.virsh("domstate", "web01") == "shut off", seconds=300, what="the end of the guest")
        domain, images = self.libvirt.everything("web01"), self.images_now()
        self.ferry("cutover", *cutover, timeout=3000, env=appliance)
        self.assertEqual(self.libvirt.everything("web01"), domain)
        self.assertEqual(self.images_now(), images)


class NameTest(LibvirtTest):
    """Nothing boots here; to libvirt a domain runs all the same."""

    lab_flags = ("--disks", "17M+37s,16M+1s", "--writer-rate", "2")

    def test_a_domain_of_somebody_else_is_left_alone(self):
        self.libvirt.define(SOMEBODY_ELSES.format(uuid=uuid.uuid4()))
        self.libvirt.virsh("start", "web01")
        before = self.libvirt.everything("web01")
        cutover = self.cutover_flags("--run-v2v=false")
        refused = self.ferry("cutover", *cutover, ok=False)
        self.assertEqual(refused.code, 6, str(refused))
        self.assertRegex(refused.err, "has a domain web01 already")
        self.assertIn(self.libvirt.uri, refused.err)
        self.assertEqual(self.libvirt.everything("web01"), before)
        self.assert_nothing_left()

        # Out of the way, it is in the way no more.
        self.libvirt.virsh("destroy", "web01")
        self.libvirt.virsh("domrename", "web01", "theirs")
        done = self.ferry("cutover", *cutover)
        self.assertIn("(running)", done.out)
        self.assertEqual(self.domain(), self.source())
        self.prove("local")

        # It runs, and the same command leaves it running: it is not restarted.
        running = self.libvirt.everything("web01")
        self.assertEqual(running["domstate"], "running")
        self.ferry("cutover", *cutover)
        self.assertEqual(self.libvirt.everything("web01"), running)
        self.assertEqual(self.libvirt.virsh("domstate", "theirs"), "shut off")


if __name__ == "__main__":
    unittest.main()
