"""A Linux guest is cut over with its conversion by the real virt-v2v-in-place: it did not boot from virtio before, it does after,
and every file is intact. Takes minutes, and the packages of `tools/setup conversion`."""

import pathlib
import sys

from ferry import MigrationTest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import guest_proof  # noqa: E402


class ConversionTest(MigrationTest):
    lab_flags = ("--guest", "linux", "--disks", "192M+37s,96M+1s", "--writer-rate", "5")

    def setUp(self):
        super().setUp()
        # /dev/kvm may be there and hang its guests.
        self.appliance = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}

    def server_disks(self):
        state = self.lab.control("openstack", "GET", "/state")
        server = next(s for s in state["servers"] if s["name"] == "web01")
        files = {v["id"]: v["file"] for v in state["volumes"]}
        return [files[volume] for volume in server["volumes"]]

    def flags(self):
        return [flag for flag in self.lab.cutover_flags() if not flag.startswith("--run-v2v")]

    def test_a_guest_is_converted_and_boots(self):
        self.ferry("migrate")
        self.prove()
        done = self.ferry("cutover", *self.flags(), "--json", timeout=3000, env=self.appliance)
        self.assertTrue(any("Converting" in str(event) for event in done.events()), str(done))
        self.assert_nothing_left()
        self.assertEqual(list((self.state / "s" / "convert").glob("*")), [], "an overlay was left behind")
        images = self.server_disks()
        for proof in (guest_proof.files, guest_proof.boots):
            verdict = proof(images)
            self.assertTrue(verdict.good, f"{proof.__name__}: {verdict.words}")

        # The source's own disks, unconverted, do not: the conversion made the difference.
        frozen = self.lab.control("vcenter", "GET", "/vms/web01/frozen")[-1]["disks"]
        unconverted = [disk["path"] for disk in sorted(frozen, key=lambda disk: disk["key"])]
        self.assertFalse(guest_proof.boots(unconverted, wait=60).good)
