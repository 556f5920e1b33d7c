"""Which way disks are read: chosen by trying, said, kept, and changed in the middle of a copy. What a check of the ways leaves: nothing."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import unittest.mock

import ferry
import test_hotadd

LIBRARY = str((ferry.BIN / "../lib/lab-vddk").resolve())


class BrokenReads:
    """Reads by nbdkit that fail from a moment on: an nbdkit in front of the real one, with its own filter for that."""

    def breakable(self, server="file file="):
        folder = self.state / "front"
        folder.mkdir()
        trigger, real = folder / "now", shutil.which("nbdkit")
        (folder / "nbdkit").write_text(
            f"#!/bin/sh\ncase \" $* \" in *\" --dump-plugin\"*) ;; *\" {server}\"*) exec {real} --filter=error \"$@\" "
            f"error-pread-rate=100% error-pread-file={trigger} ;; esac\nexec {real} \"$@\"\n")
        (folder / "nbdkit").chmod(0o755)
        return trigger, {"PATH": f"{folder}:{os.environ['PATH']}"}

    def changes(self, order, *flags, breaks, env=None, target="local"):
        """A copy by the first, slow enough to be broken off; the second brings the rest, and all that tells of the copy tells of both."""
        first, second = order.split(",")
        before = self.progressed()
        run = subprocess.Popen(self.command("migrate", "--transport", order, *flags, target=target), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env={**self.lab.environment(), **(env or {})}, stdin=subprocess.DEVNULL)
        self.addCleanup(lambda: run.poll() is None and run.kill())
        self.wait_for(lambda: self.progressed() > before or run.poll() is not None, what="the first bytes")
        self.assertIsNone(run.poll(), "it was over too soon")
        breaks()
        out, err = run.communicate(timeout=300)
        self.assertEqual(run.returncode, 0, out + err)
        self.assertIn(f"read by {second} since {first} failed in the middle of the copy", err)
        changed = f"{first} failed in the middle of the copy"
        disks = json.loads(self.ferry("status", "--json").out)["jobs"][0]["disks"]
        told = [disk for disk in disks if changed in disk["transport_reason"]]
        self.assertTrue(told, disks)
        self.assertEqual({disk["transport"] for disk in told}, {second})
        evidence = next((self.state / "s" / "evidence").glob("*.json")).read_text()
        self.assertIn(changed, evidence)
        self.prove(target)
        return disks

    def progressed(self):
        """How many checkpoints of copies are in the journal."""
        return len(self.progress_kept())

    def faster(self):
        self.ferry("limits", "--vm", "web01", "--bandwidth", "none")


class Choice(BrokenReads, ferry.MigrationTest):
    lab_flags = ("--disks", "70M+37s,33M+1s")

    def setUp(self):
        super().setUp()
        self.addCleanup(self.ferry, "abort", "--delete-volumes", target="local", ok=False)
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"folder_locked": False, "folder_rate_mb_s": 0, "folder_latency_ms": 0})

    def setting(self, **values):
        self.lab.control("vcenter", "POST", "/settings", values)

    def mounted(self):
        return ("--datastore-dir", self.lab.vcenter["datastore_dir"])

    def read_by(self):
        jobs = json.loads(self.ferry("status", "--json").out)["jobs"]
        return {disk["transport"] for disk in jobs[0]["disks"]}, " / ".join(disk["transport_reason"] for disk in jobs[0]["disks"])

    def check(self, *flags, ok=True):
        done = self.ferry("check", "transports", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], "--json", *flags, ok=ok)
        return done, json.loads(done.out)["transports"]

    def log(self):
        return next((self.state / "s/logs").glob("web01-*.log")).read_text()

    def test_only_folder(self):
        self.ferry("migrate", target="local")
        names, reason = self.read_by()
        self.assertEqual(names, {"https"})
        self.assertIn("no other way is open here", reason)
        self.prove("local")

    def test_the_faster_one_and_the_same_again(self):
        self.setting(folder_rate_mb_s=0.5)  # so slow that the choice is the same on a busy machine
        done = self.ferry("migrate", *self.mounted(), target="local")
        self.assertEqual(self.read_by()[0], {"file"})
        self.assertIn("against https", self.read_by()[1])
        self.assertIn("read by file", done.err)
        self.prove("local")
        self.lab.control("vcenter", "DELETE", "/calls")
        self.ferry("migrate", *self.mounted(), target="local")
        self.assertEqual(self.read_by(), ({"file"}, "as the last time / as the last time"))
        self.assertFalse([c for c in self.lab.control("vcenter", "GET", "/calls") if c["service"] == "folder"], "nothing is measured again")
        self.prove("local")

    def test_flat_files_that_are_locked(self):
        self.setting(folder_locked=True)
        done = self.ferry("migrate", target="local", ok=False)
        self.assertNotEqual(done.code, 0)
        self.assertIn("locked", done.err)
        self.assert_nothing_left()
        self.ferry("migrate", *self.mounted(), target="local")
        self.assertEqual(self.read_by()[0], {"file"})
        self.assertIn("https: ", self.read_by()[1])
        self.prove("local")

    def test_vddk_where_it_is(self):
        """The same machine, with VMware's library and without: another choice, explained."""
        self.setting(folder_locked=True)
        self.ferry("migrate", "--vddk-libdir", LIBRARY, target="local")
        self.assertEqual(self.read_by()[0], {"vddk"})
        self.assertIn("https: ", self.read_by()[1])
        # What docs/transports.md greps for.
        first = self.log()
        for absent, lacks in (("hotadd", "."), ("file", "--local-disk-path"), ("ssh", "--esxi-ssh-key")):
            self.assertRegex(first, f"not read by {absent}: .*{lacks}")
        for disk in (2000, 2001):
            self.assertRegex(first, f"disk {disk} is read by vddk: it works, the others do not \\(https: ")
        self.assertNotIn("not read by vddk", first)
        self.prove("local")
        rows = self.check("--vddk-libdir", "/nowhere", ok=False)[1]
        self.assertIn("/nowhere", next(r["reason"] for r in rows if r["transport"] == "vddk"))
        # No library any more: the next cycle takes what is open.
        self.setting(folder_locked=False)
        self.ferry("migrate", target="local")
        self.assertEqual(self.read_by()[0], {"https"})
        self.assertIn(first, self.log())
        second = self.log().replace(first, "")
        self.assertRegex(second, "not read by vddk: .*--vddk-libdir")
        for disk in (2000, 2001):
            self.assertRegex(second, f"disk {disk} is read by https: ")
        self.prove("local")

    def test_a_library_for_vddk_and_no_plugin(self):
        """A vmferry that was installed without it, and an nbdkit that has none of its own."""
        alone, real = self.state / "alone", shutil.which("nbdkit")
        alone.mkdir()
        shutil.copy(ferry.BIN / "vmferry", alone)  # a link would be followed to its own folder
        for program in ("vmferry-lab", "vmferry-prove"):
            (alone / program).symlink_to(ferry.BIN / program)
        (alone / "nbdkit").write_text(f'#!/bin/sh\n[ "$1" != vddk ] || exit 1\nexec {real} "$@"\n')
        (alone / "nbdkit").chmod(0o755)
        said = "there is no nbdkit plugin for VDDK: nbdkit has none of its own"
        self.setting(folder_locked=True)
        with unittest.mock.patch.object(ferry, "BIN", alone), unittest.mock.patch.dict(os.environ, PATH=f"{alone}:{os.environ['PATH']}"):
            self.ferry("migrate", *self.mounted(), "--vddk-libdir", LIBRARY, target="local")
            self.prove("local")
            rows = self.check(*self.mounted(), "--vddk-libdir", LIBRARY)[1]
        self.assertEqual(self.read_by()[0], {"file"})
        self.assertIn(f"not read by vddk: {said}", self.log())
        self.assertEqual({r["transport"] for r in rows if r["works"]}, {"file"})
        for row in rows:
            if row["transport"] == "vddk":
                self.assertIn(said, row["reason"])

    def ssh(self):
        ssh = self.lab.vcenter["esxi_ssh"]
        return ("--esxi-ssh-address", ssh["address"], "--esxi-ssh-known-hosts", ssh["known_hosts"], "--esxi-ssh-password-file", ssh["password_file"])

    def test_ssh_only_with_a_login(self):
        rows = self.check()[1]
        self.assertIn("--esxi-ssh-key", next(r["reason"] for r in rows if r["transport"] == "ssh"))
        rows = self.check(*self.ssh())[1]
        self.assertTrue(all(r["works"] for r in rows if r["transport"] in ("ssh", "https")), rows)

    def goes_on(self, order, *flags, breaks):
        """A copy by the first, slow enough to be broken off; the second brings the rest."""
        self.setting(folder_rate_mb_s=0.3)
        run = self.start("migrate", "--transport", order, *flags, target="local")
        self.addCleanup(lambda: run.poll() is None and run.kill())
        self.wait_for(lambda: self.begun(1) or run.poll() is not None, what="the first bytes")
        self.assertIsNone(run.poll(), "it was over too soon")
        breaks()
        out, err = run.communicate(timeout=300)
        self.lab.control("vcenter", "DELETE", "/faults")
        self.assertEqual(run.returncode, 0, out + err)
        first, second = order.split(",")
        self.assertIn(f"read by {second} since {first} failed in the middle of the copy", err)
        self.prove("local")
        self.assert_nothing_left()

    def begun(self, count):
        """Of that many disks at least something was written."""
        return sum(image.stat().st_blocks > 0 for image in self.images.rglob("*.img")) >= count

    def test_from_https_to_vddk(self):
        self.goes_on("https,vddk", "--vddk-libdir", LIBRARY, breaks=lambda: self.setting(folder_locked=True, folder_rate_mb_s=0))

    def test_from_vddk_to_https(self):
        def no_more_vddk():
            for method in ("Read", "Open"):
                self.lab.control("vcenter", "POST", "/faults", {"service": "vddk", "method": method, "kind": "http", "status": 503, "count": 100000})
            self.setting(folder_rate_mb_s=0)
        self.goes_on("vddk,https", "--vddk-libdir", LIBRARY, breaks=no_more_vddk)

    def test_from_https_to_ssh(self):
        self.goes_on("https,ssh", *self.ssh(), breaks=lambda: self.setting(folder_locked=True, folder_rate_mb_s=0))

    SLOW = ("--bandwidth", "2M")

    def test_from_file_to_another_when_reads_fail(self):
        trigger, env = self.breakable()
        for second, flags in (("https", ()), ("vddk", ("--vddk-libdir", LIBRARY)), ("ssh", self.ssh())):
            with self.subTest(second):
                self.changes(f"file,{second}", *self.mounted(), *flags, *self.SLOW, env=env, breaks=lambda: (trigger.touch(), self.faster()))
                self.assert_nothing_left()
                trigger.unlink()
                self.ferry("abort", "--delete-volumes", target="local")

    def test_from_ssh_to_another_when_reads_fail(self):
        trigger, env = self.breakable("ssh host=")
        for second, flags in (("https", ()), ("file", self.mounted())):
            with self.subTest(second):
                self.changes(f"ssh,{second}", *self.ssh(), *flags, *self.SLOW, env=env, breaks=lambda: (trigger.touch(), self.faster()))
                self.assert_nothing_left()
                trigger.unlink()
                self.ferry("abort", "--delete-volumes", target="local")

    def test_from_https_to_the_last_resort(self):
        """Of a machine that is off: its export is downloaded, and the copy goes on from where it was."""
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "off"})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/vms/web01/power", {"state": "on"})
        no_folder = {"service": "folder", "method": "GET", "kind": "http", "status": 500, "count": 100000}
        self.goes_on("https,export", breaks=lambda: (self.lab.control("vcenter", "POST", "/faults", no_folder), self.setting(folder_rate_mb_s=0)))

    def test_from_file_to_https_when_the_datastore_is_unmounted(self):
        mount = self.state / "mounted"
        mount.symlink_to(self.lab.vcenter["datastore_dir"])
        trigger, env = self.breakable()
        def unmount():
            mount.unlink()
            trigger.touch()
            self.faster()
        self.changes("file,https", "--datastore-dir", str(mount), *self.SLOW, env=env, breaks=unmount)
        self.assert_nothing_left()

    def test_an_order_is_an_order(self):
        self.setting(folder_rate_mb_s=20)
        self.ferry("migrate", "--transport", "https,file", *self.mounted(), target="local")
        self.assertEqual(self.read_by()[0], {"https"})
        self.ferry("migrate", "--transport", "file,https", *self.mounted(), target="local")
        self.assertEqual(self.read_by()[0], {"file"}, "whatever was before")
        wrong = self.ferry("migrate", "--transport", "auto,https", target="local", ok=False)
        self.assertEqual(wrong.code, 2)
        self.assertIn("auto stands alone", wrong.err)

    def test_one_that_fails_in_the_middle(self):
        # As slow as that, both disks are under way for a minute.
        self.setting(folder_rate_mb_s=0.1)
        run = self.start("migrate", "--transport", "https,file", *self.mounted(), target="local")
        self.addCleanup(lambda: run.poll() is None and run.kill())
        self.wait_for(lambda: self.begun(2) or run.poll() is not None, what="the first bytes of both disks")
        self.assertIsNone(run.poll(), "it was over too soon")
        self.setting(folder_locked=True, folder_rate_mb_s=0)
        out, err = run.communicate(timeout=300)
        self.assertEqual(run.returncode, 0, out + err)
        self.assertIn("read by file since https failed in the middle of the copy", err)
        self.assertEqual(self.read_by()[0], {"file"})
        self.prove("local")
        self.assert_nothing_left()
        # A substitute is not kept for its own sake.
        self.ferry("migrate", *self.mounted(), target="local")
        self.assertIn("it works, the others do not (https: ", self.read_by()[1])
        self.prove("local")

    def test_a_check_tells_and_leaves_nothing(self):
        done, rows = self.check(*self.mounted())
        self.assertEqual({(r["transport"], r["works"]) for r in rows}, {("file", True), ("https", True)} | {(r["transport"], False) for r in rows if not r["works"]})
        self.assertEqual(len({r["disk"] for r in rows}), 2)
        self.assertEqual(sum(r["chosen"] for r in rows), 2)
        for row in rows:
            if row["works"]:
                self.assertGreater(row["bytes_per_second"], 0)
                self.assertGreater(row["latency_ms"], 0)
            else:
                self.assertTrue(row["reason"])
        self.assert_nothing_left()
        self.assertEqual(json.loads(self.ferry("status", "--json").out)["jobs"], [])
        self.setting(folder_locked=True)
        done, rows = self.check(ok=False)
        self.assertEqual(done.code, 1)
        self.assertIn("locked", next(r["reason"] for r in rows if r["transport"] == "https"))
        text = self.ferry("check", "transports", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], *self.mounted()).out
        self.assertRegex(text, r"DISK +TRANSPORT +RESULT +MB/S +MS +AUTO")
        self.assertRegex(text, r"Hard disk 1 \(2000\) +file +works .* taken")
        self.assertIn("https: ", text)

    def test_a_check_whose_snapshot_stays_still_tells(self):
        connection = (*self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"])
        refused = {"service": "vsphere", "method": "RemoveSnapshot_Task", "kind": "fault", "fault": "NoPermission", "count": 100}
        self.lab.control("vcenter", "POST", "/faults", refused)
        self.addCleanup(self.lab.control, "vcenter", "DELETE", "/faults")
        done = self.ferry("check", "transports", *connection, *self.mounted(), ok=False)
        self.assertEqual(done.code, 4, done)
        self.assertRegex(done.out, r"Hard disk 1 \(2000\) +file +works")
        self.assertIn("the snapshot of this check could not be removed", done.err)
        self.lab.control("vcenter", "DELETE", "/faults")
        self.check(*self.mounted())
        self.assert_nothing_left()
        # The first failure is the one that counts.
        self.lab.control("vcenter", "POST", "/faults", refused)
        done = self.ferry("check", "transports", *connection, "--transport", "vddk", "--vddk-libdir", "/nowhere", ok=False)
        self.assertEqual(done.code, 3, done)
        self.assertIn("VDDK cannot be used from /nowhere", done.err)
        self.assertIn("the snapshot of this check could not be removed", done.err)
        self.lab.control("vcenter", "DELETE", "/faults")
        self.check(*self.mounted())
        self.assert_nothing_left()

    def test_a_check_that_was_killed_is_swept_up(self):
        for sweep in ("check", "migrate"):
            with self.subTest(sweep):
                self.setting(folder_latency_ms=5000)
                check = self.start("check", "transports", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"])
                self.wait_for(lambda: self.lab.vm()["snapshots"] or check.poll() is not None, what="the check's snapshot")
                check.send_signal(signal.SIGKILL)
                check.communicate()
                self.assertEqual(check.returncode, -signal.SIGKILL, "it was over too soon")
                self.assertTrue(self.lab.vm()["snapshots"])
                self.setting(folder_latency_ms=0)
                if sweep == "check":
                    self.check()
                else:
                    self.ferry("migrate", target="local")
                    self.prove("local")
                self.assert_nothing_left()


class ProxyTest(BrokenReads, test_hotadd.HotaddTest):
    """This host is a machine of that vCenter."""

    def setUp(self):
        super().setUp()
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"folder_locked": False, "folder_rate_mb_s": 0})

    def detach(self):
        """As somebody in vSphere does."""
        for disk in self.lab.vm("proxy01")["disks"]:
            if disk["attached"]:
                self.lab.control("vcenter", "DELETE", f"/vms/proxy01/disks/{disk['key']}")

    def end_servers(self):
        """The nbdkits of this test's run."""
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                if words[0] == b"nbdkit" and any(str(self.state).encode() in word for word in words):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue  # it ended meanwhile


class WithAProxy(ProxyTest):
    """Disks can be attached to it, and nobody has to say so."""

    def test_from_hotadd_to_another_when_reads_fail(self):
        trigger, env = self.breakable()
        ssh = self.lab.vcenter["esxi_ssh"]
        for second, flags in (("https", ()), ("vddk", ("--vddk-libdir", LIBRARY)),
                              ("ssh", ("--esxi-ssh-address", ssh["address"], "--esxi-ssh-known-hosts", ssh["known_hosts"],
                                       "--esxi-ssh-password-file", ssh["password_file"]))):
            with self.subTest(second):
                self.changes(f"hotadd,{second}", *flags, *test_hotadd.SLOW, env={**env, **self.guest()}, target="openstack",
                             breaks=lambda: (trigger.touch(), self.faster()))
                self.assert_clean()
                trigger.unlink()
                self.ferry("abort", "--delete-volumes")

    def test_from_hotadd_to_https_when_the_disks_are_detached(self):
        self.changes("hotadd,https", *test_hotadd.SLOW, env=self.guest(), target="openstack",
                     breaks=lambda: (self.detach(), self.end_servers(), self.faster()))
        self.assert_clean()

    def test_from_https_to_hotadd(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.5})
        self.changes("https,hotadd", env=self.guest(), target="openstack",
                     breaks=lambda: self.lab.control("vcenter", "POST", "/settings", {"folder_locked": True, "folder_rate_mb_s": 0}))
        self.assert_clean()

    def test_it_is_found_tried_and_left(self):
        # So slow that the choice is the same on a busy machine.
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.5})
        rows = json.loads(self.ferry("check", "transports", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], "--json").out)["transports"]
        self.assertEqual({r["transport"] for r in rows if r["works"]}, {"hotadd", "https"})
        self.assert_clean()
        self.ferry("migrate")
        disks = json.loads(self.ferry("status", "--json").out)["jobs"][0]["disks"]
        for disk in disks:
            self.assertEqual(disk["transport"], next(r["transport"] for r in rows if r["disk"] == disk["key"] and r["chosen"]))
            self.assertIn(" against ", disk["transport_reason"])
        self.prove()
        self.assert_clean()

    def test_above_somebodys_snapshot_it_is_the_only_one(self):
        foreign = self.lab.control("vcenter", "POST", "/vms/web01/snapshots", {"name": "of somebody"})
        self.addCleanup(self.lab.control, "vcenter", "DELETE", f"/vms/web01/snapshots/{foreign['id']}")
        self.ferry("migrate")
        disks = json.loads(self.ferry("status", "--json").out)["jobs"][0]["disks"]
        self.assertEqual({disk["transport"] for disk in disks}, {"hotadd"})
        self.assertIn("https: ", disks[0]["transport_reason"])
        self.prove()
        self.assert_clean(foreign=1)


class InThePlaceOfAnother(ProxyTest):
    # Names of this lab's own: a loop device that is free is anybody's.
    lab_flags = (*test_hotadd.HotaddTest.lab_flags, "--devices", "file")

    def test_another_disk_in_the_place_of_a_detached_one_is_not_read(self):
        """It has the size, the place and the device's name of the one that left."""
        self.configure(enable_uuid=False)
        links = pathlib.Path(self.lab.vcenter["proxies"][0]["root"]) / "dev/disk/by-path"
        run = self.start("migrate", *self.transport, *test_hotadd.SLOW)
        self.addCleanup(lambda: run.poll() is None and run.kill())
        self.wait_for(lambda: self.progressed() or run.poll() is not None, what="the first bytes")
        run.send_signal(signal.SIGSTOP)  # it shall find the other disk, not the gap before
        before = {link: os.readlink(link) for link in links.iterdir()}
        self.detach()
        self.end_servers()
        for link, device in before.items():
            self.impostor(device)
            link.symlink_to(device)
            self.addCleanup(link.unlink, missing_ok=True)
        run.send_signal(signal.SIGCONT)
        self.faster()
        out, err = run.communicate(timeout=300)
        self.assertNotEqual(run.returncode, 0, out + err)
        self.assertIn("is no longer attached to proxy01", err)
        self.assert_clean()
        for link in before:
            link.unlink()
        self.migrate()
        self.prove()

    def impostor(self, device):
        """Other bytes of that size behind the name of a device that is gone."""
        other = self.state / f"other-{pathlib.Path(device).name}"
        with open(other, "wb") as file:
            file.truncate((48 << 20) + 5 * 512)
        other.rename(device)
