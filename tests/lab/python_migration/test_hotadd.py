"""Reading disks by attaching them to a proxy: every byte is right, whichever way the device is found, and nothing stays attached or marked,
whatever happened. The two disks have the same size, so that one taken for the other would be seen."""

import contextlib
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from ferry import Lab, MigrationTest

SLOW = ("--bandwidth", "2M")


class HotaddTest(MigrationTest):
    lab_flags = ("--proxies", "2", "--second-vm", "db01", "--disks", "48M+5s,48M+5s", "--writer-rate", "5")
    transport = ("--transport", "hotadd")

    def setUp(self):
        super().setUp()
        self.lab.control("vcenter", "DELETE", "/faults")
        self.configure(enable_uuid=True)
        self.addCleanup(self.undo)

    def undo(self):
        """The next test begins anew, whatever became of this one."""
        self.lab.control("vcenter", "DELETE", "/faults")
        self.ferry("abort", "--delete-volumes", ok=False)
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})
        for snapshot in self.lab.vm()["snapshots"]:
            self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot['id']}")

    def configure(self, proxy="proxy01", **settings):
        self.lab.control("vcenter", "POST", f"/vms/{proxy}/config", settings)

    def ferry(self, verb, *flags, proxy=0, env=None, **more):
        return super().ferry(verb, *flags, env={**self.guest(proxy), **(env or {})}, **more)

    def guest(self, proxy=0):
        return {"VMFERRY_PROXY_ROOT": self.lab.vcenter["proxies"][proxy]["root"]}

    def start(self, verb, *flags, **more):
        return subprocess.Popen(self.command(verb, *flags, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**self.lab.environment(), **self.guest()}, stdin=subprocess.DEVNULL)

    def migrate(self, *flags, **more):
        return self.ferry("migrate", *self.transport, *flags, **more)

    def attached(self, proxy="proxy01"):
        return [d["file"] for d in self.lab.vm(proxy)["disks"] if d["attached"]]

    def device(self):
        links = pathlib.Path(self.lab.vcenter["proxies"][0]["root"]) / "dev/disk/by-path"
        return os.readlink(next(links.iterdir()))

    def marks(self, vm):
        return [key for key in self.lab.vm(vm)["extra_config"] if key.startswith("vmferry.")]

    def assert_clean(self, foreign=0, vm="web01"):
        for proxy in ("proxy01", "proxy02"):
            self.assertEqual(self.attached(proxy), [])
            self.assertEqual(self.marks(proxy), [])
            self.assertEqual([d["key"] for d in self.lab.vm(proxy)["disks"]], [2000], "the proxy's own disk")
        self.assertEqual(self.marks(vm), [])
        self.assertFalse(self.lab.vm(vm)["consolidation_needed"])
        self.assert_nothing_left(vm, foreign)
        # What was attached lies where it lay.
        for disk in self.lab.vm(vm)["disks"]:
            store, _, name = disk["file"].partition("] ")
            self.assertTrue((pathlib.Path(self.lab.vcenter["datastore_dir"]) / name).exists(), disk["file"])

    def interrupted(self, *flags):
        """A migrate that is killed with -9 in its copy: both disks are attached, and no change of a configuration is under way."""
        before = len(self.progress_kept())
        process = self.start("migrate", *self.transport, *SLOW, *flags)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        self.wait_for(lambda: len(self.attached()) == 2 and len(self.progress_kept()) > before or process.poll() is not None, what="a copy")
        self.assertIsNone(process.poll(), "it was over too soon")
        process.kill()
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        self.assertEqual(len(self.attached()), 2)


class Journey:
    def test_migrate_migrate_cutover(self):
        self.configure(enable_uuid=self.enable_uuid)
        self.migrate()
        self.assert_clean()
        self.prove()
        copied = [e for e in self.migrate("--json").events() if e["event"] == "disk_finished"]
        self.assertEqual([e["full"] for e in copied], [False, False])
        self.prove()
        self.ferry("cutover", *self.transport, *self.lab.cutover_flags())
        self.prove()
        self.assert_clean()


class ByUuidTest(Journey, HotaddTest):
    enable_uuid = True


class ByPlaceTest(Journey, HotaddTest):
    enable_uuid = False


class Written:
    def test_what_the_proxy_wrote_is_not_copied(self):
        """Its RAID or an automount, say. The bytes are those that were there: that somebody wrote is all there is to see."""
        process = self.start("migrate", *self.transport, *SLOW, *self.proxy_flags())
        self.wait_for(lambda: self.served() == 2 or process.poll() is not None, what="disks that are read")
        device = self.device()
        if not device.startswith("/dev/loop"):
            process.kill()
            process.communicate()
            self.skipTest("no loop devices here: no kernel counts what is written to plain files")
        self.assertIsNone(process.poll(), "it was over too soon")
        with open(device, "r+b", buffering=0) as disk:
            page = disk.read(4096)
            disk.seek(0)
            disk.write(page)
        _, err = process.communicate(timeout=600)
        self.assertNotEqual(process.returncode, 0, err)
        self.assertIn(f"{device} has been written to on", err)
        self.assertIn("run the same command again", err)
        anew = [e["label"] for e in self.migrate("--json", *self.proxy_flags()).events() if e["event"] == "disk_finished" and e["full"]]
        self.assertTrue(any(f"while copying {label}" in err for label in anew), f"{anew} {err}")
        self.assert_clean()
        self.prove()

    def proxy_flags(self):
        return ()

    def served(self):
        """A loop device's counters begin long before its disk does, so what is written before they are read first goes unseen."""
        return sum(log.read_text().count("disk attached") for log in (self.state / "s" / "logs").glob("web01-*.log"))


class SafetyTest(Written, HotaddTest):
    def test_killed_then_aborted(self):
        """abort needs no flag to know how the run that died has read."""
        self.interrupted()
        self.ferry("abort")
        self.assert_clean()

    def test_killed_then_run_again(self):
        self.interrupted()
        self.migrate()
        self.assert_clean()
        self.prove()

    def test_killed_then_run_again_another_way(self):
        """On a host that is not the proxy, and reading over https."""
        self.interrupted()
        self.ferry("migrate", env={"VMFERRY_PROXY_ROOT": "/nonexistent"})
        self.assert_clean()
        self.prove()

    def test_interrupted(self):
        process = self.start("migrate", *self.transport, *SLOW)
        self.wait_for(self.attached, what="an attached disk")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
        self.assertEqual(process.returncode, 130)
        self.assert_clean()

    def test_lost_replies(self):
        """Of each of the first ten changes of a configuration."""
        self.lab.control("vcenter", "POST", "/faults", {"service": "vsphere", "method": "ReconfigVM_Task", "kind": "lost-reply", "count": 10})
        self.migrate()
        self.assert_clean()
        self.prove()

    def test_tasks_that_fail(self):
        self.lab.control("vcenter", "POST", "/faults", {"service": "vsphere", "method": "task:ReconfigVM_Task", "fault": "ConcurrentAccess",
                                                        "kind": "fault", "count": 3})
        self.migrate()
        self.assert_clean()
        self.prove()

    def test_redo_layers(self):
        """A disk above somebody's snapshot is a chain of files, which the hypervisor reads for the proxy."""
        snapshot = self.lab.control("vcenter", "POST", "/vms/web01/snapshots", {"name": "backup"})["id"]
        self.addCleanup(self.lab.control, "vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot}")
        self.migrate()
        self.assert_clean(foreign=1)
        self.prove()

    def test_two_at_once(self):
        """Both through one proxy; neither touches the other's disks."""
        self.addCleanup(self.ferry, "abort", "--delete-volumes", path="/DC0/vm/db01")
        other = self.start("migrate", *self.transport, path="/DC0/vm/db01")
        self.migrate()
        _, err = other.communicate(timeout=300)
        self.assertEqual(other.returncode, 0, err)
        self.prove()
        self.prove(vm="db01")
        self.assert_clean()
        self.assert_clean(vm="db01")

    def test_killed_then_aborted_on_another_host(self):
        """Whose journal knows of nothing, or only of a job of its own. The snapshot may be of a run that lives: it is named, and stays."""
        first = self.state
        for journal in ("none", "own"):
            with self.subTest(journal):
                self.state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=self.lab.work))
                other = self.state
                if journal == "own":
                    self.ferry("migrate", "--transport", "https", target="local")
                self.state = first
                self.interrupted()
                snapshot = self.lab.vm()["snapshots"][0]["id"]
                self.state = other
                target = "openstack" if journal == "none" else "local"
                self.refused_here("migrate", "--transport", "https", target=target)
                done = self.ferry("abort", target=target, ok=False)
                self.assertEqual(done.code, 5 if journal == "none" else 0, str(done))
                if journal == "none":
                    self.assertIn(f"snapshot {snapshot} of web01 is of job", done.err)
                    self.assertIn("what other runs had attached of web01 to proxies is detached", done.err)
                self.assertEqual(self.attached(), [])
                self.assertEqual(self.marks("proxy01") + self.marks("web01"), [])
                self.assertEqual(len(self.lab.vm()["snapshots"]), 1)
                self.state = first
                self.ferry("abort", "--delete-volumes")
                self.assert_clean()

    def refused_here(self, *command, **more):
        """Another host's run has a disk attached: nothing of it is touched, and nothing is begun."""
        before = self.lab.vm()["snapshots"], self.attached()
        done = self.ferry(*command, ok=False, **more)
        self.assertEqual(done.code, 6, str(done))
        self.assertRegex(done.err, "disks of web01 are attached to the proxy proxy01 at scsi0:1.* by another run")
        self.assertIn("`vmferry abort` here", done.err)
        self.assertEqual((self.lab.vm()["snapshots"], self.attached()), before)

    def test_a_live_run_of_another_host(self):
        """Its disks stay, whatever is begun here."""
        there, live = self.state, self.start("migrate", *self.transport, "--bandwidth", "512K")
        self.addCleanup(setattr, self, "state", there)
        self.wait_for(lambda: len(self.attached()) == 2 or live.poll() is not None, what="attached disks")
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=self.lab.work))
        self.refused_here("migrate", "--transport", "https")
        self.refused_here("cutover", *self.transport, *self.lab.cutover_flags())
        self.refused_here("check", "transports", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"])
        self.assertNotIn("web01", self.ferry("status", "--all").out, "no job was begun")
        self.state = there
        self.ferry("limits", "--vm", "web01", "--bandwidth", "none")
        _, err = live.communicate(timeout=300)
        self.assertEqual(live.returncode, 0, err)
        self.assert_clean()
        self.prove()

    def test_a_check_of_another_host(self):
        """Both have the same job in the eyes of people, but not in those of a machine."""
        check = ("check", "transports", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], *self.transport)
        slow = lambda ms: self.lab.control("vcenter", "POST", "/settings", {"task_delay_ms": ms})
        self.addCleanup(slow, 100)
        slow(2000)
        there, live = self.state, self.start(*check)
        self.addCleanup(setattr, self, "state", there)
        self.wait_for(lambda: self.lab.vm()["snapshots"] or live.poll() is not None, what="a snapshot")
        live.send_signal(signal.SIGSTOP)
        self.addCleanup(live.kill)
        self.assertIsNone(live.poll(), "it was over too soon")
        slow(100)
        snapshots = self.lab.vm()["snapshots"]
        self.assertEqual(len(snapshots), 1)
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=self.lab.work))
        done = self.ferry(*check, ok=False)
        self.assertIn(done.code, (0, 6), str(done))
        self.assertEqual(self.lab.vm()["snapshots"], snapshots)
        self.state = there
        live.send_signal(signal.SIGCONT)
        _, err = live.communicate(timeout=300)
        self.assertEqual(live.returncode, 0, err)
        self.assert_clean()

    def test_others_disks_stay(self):
        """A frozen disk that somebody else attached carries no mark of ours."""
        snapshot = self.lab.control("vcenter", "POST", "/vms/db01/snapshots", {"name": "backup"})["id"]
        self.addCleanup(self.lab.control, "vcenter", "DELETE", f"/vms/db01/snapshots/{snapshot}")
        self.lab.control("vcenter", "POST", "/vms/proxy01/disks", {"bytes": 1 << 20})
        self.addCleanup(self.lab.control, "vcenter", "DELETE", "/vms/proxy01/disks/2001")
        self.interrupted()
        self.ferry("abort")
        self.assertEqual([d["key"] for d in self.lab.vm("proxy01")["disks"]], [2000, 2001])
        self.assertEqual(self.marks("proxy01"), [])

    def test_a_device_in_use_is_not_taken_away(self):
        self.interrupted()
        device = self.device()
        if not device.startswith("/dev/loop"):
            self.skipTest("no loop devices here: plain files have no holders")
        held = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            done = self.migrate(ok=False)
            self.assertNotEqual(done.code, 0, str(done))
            self.assertIn(f"{device} is held on this host", done.err)
            self.assertEqual(len(self.lab.vm()["snapshots"]), 1, "the snapshot of an attached disk must stay")
            self.assertTrue(self.attached())
        finally:
            os.close(held)
        self.migrate()
        self.assert_clean()
        self.prove()


class RefusalTest(HotaddTest):
    """What cannot be done is said, and nothing is left."""

    def refused(self, *says, code=None, **more):
        done = self.migrate(*more.pop("flags", ()), ok=False, **more)
        self.assertNotEqual(done.code, 0, str(done))
        for words in says:
            self.assertIn(words, done.err)
        self.assertEqual(self.lab.vm()["snapshots"], [])

    def test_this_host_is_no_machine_of_the_vcenter(self):
        self.refused("does not show the SMBIOS UUID of a VMware machine", "--proxy-vm", env={"VMFERRY_PROXY_ROOT": "/nonexistent"})

    def test_the_proxy_is_not_this_host(self):
        self.refused("proxy02 is not this host", "--proxy-ssh", flags=("--proxy-vm", "/DC0/vm/proxy02"))

    @contextlib.contextmanager
    def others(self, *counts):
        """So many disks of somebody else's at the controllers of the proxy."""
        added = [self.lab.control("vcenter", "POST", "/vms/proxy01/disks", {"bytes": 512, "bus": bus})["key"]
                 for bus, count in enumerate(counts) for _ in range(count)]
        try:
            yield
        finally:
            for key in added:
                self.lab.control("vcenter", "DELETE", f"/vms/proxy01/disks/{key}")

    def test_the_proxy_is_full(self):
        with self.others(14, 15, 15, 15):
            self.refused("has no free place for another disk")
        self.assert_clean()

    def test_the_last_place_of_all(self):
        """The fourth controller, which is behind the second function of a bridge."""
        with self.others(14, 15, 15, 13):
            self.configure(enable_uuid=False)
            self.migrate()
            self.prove()
        self.assert_clean()

    def stale(self, path):
        """The device of a disk that has left."""
        link = pathlib.Path(self.lab.vcenter["proxies"][0]["root"]) / "dev/disk/by-path" / path
        link.symlink_to("/dev/null")
        self.addCleanup(lambda: link.is_symlink() and link.unlink())

    def test_a_stale_device(self):
        """It is not taken for the next disk there, which goes to another place."""
        self.configure(enable_uuid=False)
        self.stale("pci-0000:03:00.0-scsi-0:0:1:0")
        self.migrate(timeout=300)
        self.prove()
        logs = [log.read_text() for log in (self.state / "s" / "logs").glob("web01-*.log")]
        said = [line for log in logs for line in log.splitlines() if "another place is used" in line]
        self.assertEqual(len(said), 1, said)
        self.assertIn("/sys/class/block/null/device/delete", said[0])
        self.assert_clean()

    def test_a_stale_device_at_the_last_place(self):
        with self.others(14, 15, 15, 14):
            self.stale("pci-0000:04:00.0-scsi-0:0:15:0")
            self.refused("/dev/null on this host has not vanished", timeout=300)
        self.assert_clean()

    def test_another_kind_of_controller(self):
        """Disks go to a pvscsi controller of their own; with no room for one, they are told by their UUIDs."""
        self.configure(enable_uuid=False, lsi_sas=True)
        self.addCleanup(self.configure, lsi_sas=False)
        self.migrate()
        self.prove()
        self.assert_clean()
        self.configure(enable_uuid=True)
        with self.others(0, 15, 15, 15):
            self.migrate()
            self.prove()
        self.assert_clean()

    def test_a_mark_without_privilege(self):
        self.lab.account = "restricted_"
        self.addCleanup(setattr, self.lab, "account", "")
        for privilege in ("VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Config.AddExistingDisk"):
            with self.subTest(privilege=privilege):
                self.lab.control("vcenter", "POST", "/privileges", {"take": [privilege]})
                try:
                    self.refused(privilege)
                finally:
                    self.lab.control("vcenter", "DELETE", "/privileges")
        self.migrate()
        self.assert_clean()
        self.prove()


class SshTest(Written, HotaddTest):
    """A proxy that is not this host: a real sshd on the loopback interface, with keys of its own."""

    def setUp(self):
        super().setUp()
        self.keys = pathlib.Path(tempfile.mkdtemp(prefix="ssh-", dir=self.lab.work))
        for name in ("host", "user", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.keys / name], check=True)
        shutil.copy(self.keys / "user.pub", self.keys / "authorized")
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)  # what sshd confines itself to
        self.addCleanup(self.end_sshd)
        # sshd cannot choose a port itself, and somebody else may take one that was free a moment ago.
        for _ in range(10):
            self.start_sshd()
            # It writes its number once the port is its own.
            self.wait_for(lambda: self.sshd.poll() is not None or (self.keys / "pid").exists(), what="sshd")
            if self.sshd.poll() is None:
                return
        self.fail("sshd does not start")

    def start_sshd(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (self.keys / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {(self.keys / 'host.pub').read_text()}")
        (self.keys / "config").write_text("\n".join([
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.keys}/host", f"AuthorizedKeysFile {self.keys}/authorized",
            f"PidFile {self.keys}/pid", "UsePAM no", "StrictModes no", "PasswordAuthentication no", "PermitRootLogin prohibit-password",
            "MaxStartups 100", ""]))
        self.sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(self.keys / "config")], stderr=subprocess.DEVNULL)

    def end_sshd(self):
        self.sshd.terminate()
        self.sshd.wait()

    def flags(self, key="user"):
        user = pwd.getpwuid(os.getuid()).pw_name
        return ("--proxy-ssh", f"{user}@127.0.0.1:{self.port}", "--proxy-ssh-key", str(self.keys / key),
                "--proxy-ssh-known-hosts", str(self.keys / "known_hosts"))

    def proxy_flags(self):
        return self.flags()

    def remote(self):
        """The nbdkits at the other end, of this sshd: other tests have theirs at the same time."""
        found = []
        ours = f" 127.0.0.1 {self.port}".encode()
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                connection = [word for word in (process / "environ").read_bytes().split(b"\0") if word.startswith(b"SSH_CONNECTION=")]
            except OSError:
                continue
            if words[0] == b"nbdkit" and any(word.startswith(b"/tmp/vmferry-nbd-") for word in words) and connection and connection[0].endswith(ours):
                found.append(int(process.name))
        return found

    def test_by_uuid_and_by_place(self):
        self.migrate(*self.flags())
        self.assert_clean()
        self.prove()
        self.configure(enable_uuid=False)
        self.migrate("--proxy-vm", "/DC0/vm/proxy01", *self.flags())
        self.assert_clean()
        self.prove()

    def test_killed(self):
        self.interrupted(*self.flags())
        self.wait_for(lambda: not self.remote(), what="the end of the nbdkits on the proxy")
        self.migrate(*self.flags())
        self.assert_clean()
        self.prove()

    def test_a_proxy_that_does_not_answer(self):
        """Its disks are only read: better detached unasked than a snapshot that grows."""
        process = self.start("migrate", *self.transport, *SLOW, *self.flags())
        self.wait_for(lambda: len(self.attached()) == 2 or process.poll() is not None, what="attached disks")
        self.wait_for(self.remote, what="nbdkits on the proxy")
        self.end_sshd()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 130, err)
        self.assertNotIn("could not", err)
        self.assert_clean()

    def test_a_proxy_that_is_switched_off(self):
        self.addCleanup(self.lab.control, "vcenter", "POST", "/vms/proxy01/power", {"state": "on"})
        process = self.start("migrate", *self.transport, *SLOW, *self.flags())
        self.wait_for(lambda: len(self.attached()) == 2 or process.poll() is not None, what="attached disks")
        self.lab.control("vcenter", "POST", "/vms/proxy01/power", {"state": "off"})
        self.end_sshd()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 130, err)
        self.assert_clean()
        log = (next((self.state / "s" / "logs").glob("web01-*.log"))).read_text()
        self.assertNotIn("cannot be asked", log, "nobody is there to be asked")

    def test_no_server_is_left(self):
        """Of a connection that is lost before the server on the proxy has begun, or before it says so."""
        key = (self.keys / "user.pub").read_text()
        for how, act in (("before", "exit 1"), ("while", 'sh -c "$SSH_ORIGINAL_COMMAND" | true')):
            with self.subTest(how):
                asked, wrapper = self.keys / f"asked-{how}", self.keys / how
                wrapper.write_text(f"""#!/bin/sh
case $SSH_ORIGINAL_COMMAND in
"sh -c "*) echo "$SSH_ORIGINAL_COMMAND" >>{asked}; {act} ;;
*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;
esac
""")
                wrapper.chmod(0o755)
                (self.keys / "authorized").write_text(f'command="{wrapper}" {key}')
                done = self.migrate(*self.flags(), ok=False)
                self.assertIn("no disk can be served on ", done.err)
                folders = set(re.findall("/tmp/vmferry-nbd-[A-Za-z0-9-]+", asked.read_text()))
                self.assertTrue(folders)
                self.assertEqual([f for f in folders if os.path.exists(f)], [])
                self.assertEqual([pid for pid in self.remote() if any(f in self.words(pid) for f in folders)], [])
        self.assert_clean()

    def words(self, pid):
        try:
            return (pathlib.Path("/proc") / str(pid) / "cmdline").read_text()
        except OSError:
            return ""  # it has ended

    def test_a_device_in_use_is_not_taken_away(self):
        self.interrupted(*self.flags())
        self.wait_for(lambda: not self.remote(), what="the end of the nbdkits on the proxy")
        device = self.device()
        if not device.startswith("/dev/loop"):
            self.skipTest("no loop devices here: plain files have no holders")
        held = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            done = self.migrate(*self.flags(), ok=False)
            self.assertIn(f"{device} is held on ", done.err)
            self.assertTrue(self.attached())
        finally:
            os.close(held)
        self.migrate(*self.flags())
        self.assert_clean()
        self.prove()

    def test_an_unknown_host_key(self):
        (self.keys / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {(self.keys / 'stranger.pub').read_text()}")
        done = self.migrate(*self.flags(), ok=False)
        self.assertIn("cannot be asked by ssh", done.err)
        self.assertIn("host key", done.err.lower())
        self.assert_clean()

    def test_a_wrong_key(self):
        done = self.migrate(*self.flags("stranger"), ok=False)
        self.assertIn("Permission denied", done.err)
        self.assert_clean()

    def test_the_wrong_machine(self):
        done = self.migrate("--proxy-vm", "/DC0/vm/proxy02", *self.flags(), ok=False)
        self.assertIn("proxy02 is not", done.err)
        self.assert_clean()


if __name__ == "__main__":
    unittest.main()
