"""The lab and the product as a test drives them: real processes, real bytes. Standard library only."""

import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import unittest

BIN = pathlib.Path(os.environ.get("VMFERRY_BIN_DIR", "build/release/bin"))


class Result:
    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    def events(self):
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


class Lab:
    """`vmferry-lab up` in a folder of its own."""

    account = ""  # "restricted_": as the user whose privileges a test changes

    def __init__(self, *flags):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="vmferry-t-"))
        self.directory = self.work / "lab"
        done = subprocess.run([BIN / "vmferry-lab", "up", "--dir", self.directory, "--deadline", "15m", *flags], capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(self.work)
            raise RuntimeError(f"the lab did not start: {done.stdout}{done.stderr}")
        self.facts = json.loads((self.directory / "lab.json").read_text())
        self.vcenter = self.facts["vcenter"]
        self.openstack = self.facts["openstack"]

    def down(self):
        subprocess.run([BIN / "vmferry-lab", "down", "--dir", self.directory], capture_output=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def control(self, service, method, path, body=None):
        arguments = [BIN / "vmferry-lab", "ctl", "--dir", self.directory, service, method, path]
        if body is not None:
            arguments.append(json.dumps(body))
        done = subprocess.run(arguments, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{service} {method} {path}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def vm(self, name="web01"):
        return self.control("vcenter", "GET", f"/vms/{name}")

    def volumes(self):
        return self.control("openstack", "GET", "/state")["volumes"]

    def secrets(self):
        """What may be readable nowhere: the passwords, and by the lab's own memory every session and token it gave out."""
        found = {pathlib.Path(self.vcenter["password_file"]).read_text().strip()}
        if "esxi_ssh" in self.vcenter:
            found.add(pathlib.Path(self.vcenter["esxi_ssh"]["password_file"]).read_text().strip())
        for line in pathlib.Path(self.openstack["clouds_yaml"]).read_text().splitlines():
            key, _, value = line.strip().partition(":")
            if key in ("password", "application_credential_secret"):
                found.add(value.strip().strip("'\""))
        for service in ("vcenter", "openstack"):
            found |= set(self.control(service, "GET", "/secrets"))
        return {s.encode() for s in found if s}

    def environment(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "VMFERRY_"))}
        env.update(
            OS_CLIENT_CONFIG_FILE=self.openstack["clouds_yaml"],
            OS_CLOUD="lab",
            VMFERRY_METADATA_URL=self.openstack["metadata_url"],
            VMFERRY_DEVICE_DIR=self.openstack["by_id"],
            VMFERRY_DEVICE_IDENTITY=self.openstack["identity_dir"],
        )
        return env

    def connection(self):
        return [
            "--vmware-endpoint", self.vcenter["endpoint"],
            "--vmware-username", self.vcenter[self.account + "username"],
            "--vmware-password-file", self.vcenter[self.account + "password_file"],
            "--vmware-ca", self.vcenter["ca"],
        ]

    def cutover_flags(self):
        flags = ["--flavor", self.openstack["flavor_id"], "--run-v2v=false"]
        for mac in self.vcenter["macs"]:
            flags += ["--network-mapping", f"mac={mac},network-id={self.openstack['network_id']},subnet-id={self.openstack['subnet_id']}"]
        return flags


class MigrationTest(unittest.TestCase):
    """One lab a class; one state folder a test."""

    lab_flags = ()
    keep_lab = None

    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(*cls.lab_flags)

    @classmethod
    def tearDownClass(cls):
        cls.lab.down()

    def setUp(self):
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=self.lab.work))
        self.images = self.state / "images"

    def command(self, verb, *flags, target="openstack", path=None):
        arguments = [str(BIN / "vmferry"), verb, "--state-dir", str(self.state / "s")]
        if verb in ("migrate", "cutover", "verify", "abort"):
            arguments += self.lab.connection() + ["--vmware-path", path or self.lab.vcenter["vm_path"]]
            if target == "local":
                self.images.mkdir(exist_ok=True)
                arguments += ["--target", f"local:{self.images}"]
        if verb == "inventory":
            arguments += self.lab.connection()
        return arguments + list(flags)

    def ferry(self, verb, *flags, ok=True, timeout=300, env=None, **more):
        environment = self.lab.environment()
        environment.update(env or {})
        done = Result(subprocess.run(self.command(verb, *flags, **more), capture_output=True, text=True, env=environment, timeout=timeout,
                                     stdin=subprocess.DEVNULL))
        if ok:
            self.assertEqual(done.code, 0, str(done))
        return done

    def start(self, verb, *flags, **more):
        return subprocess.Popen(self.command(verb, *flags, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=self.lab.environment(), stdin=subprocess.DEVNULL)

    def until_it_copied(self, process, share=0.0):
        """Reads what a run with --json tells until that share of a disk is there; how many bytes were, and of how many."""
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event.get("total") and event["done"] > share * event["total"]:
                return event["done"], event["total"]
        self.fail(f"no copy has come that far: {process.wait()}: {process.stderr.read()}")

    def progress_kept(self):
        """The checkpoints of the first copy of a disk that are in the journal, as ranges of [offset, length]."""
        file = self.state / "s" / "journal.sqlite"
        if not file.exists():
            return []
        journal = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)
        try:
            bodies = [json.loads(row[0]) for row in journal.execute("SELECT body FROM fact WHERE body LIKE '%DiskProgressed%'")]
        except sqlite3.OperationalError:
            return []  # it is being made
        finally:
            journal.close()
        return [body for body in bodies if body["fact"] == "DiskProgressed"]

    def killed_in_the_copy(self, share, *flags, **more):
        """A migrate that is killed when that share of a disk is there; how many bytes were. The copy must last much longer than
        the test may be held up."""
        process = self.start("migrate", "--json", *flags, **more)
        done, _ = self.until_it_copied(process, share)
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        self.assertEqual(process.returncode, -signal.SIGKILL, "the copy was over too soon")
        return done

    def prove(self, target="openstack", equal=True, vm="web01"):
        arguments = [str(BIN / "vmferry-prove"), "--json", "--frozen", vm, "--lab", str(self.lab.directory)]
        if target == "local":
            folder = self.images / vm
            arguments += ["--local", str(folder)] + [f"{image.stem.rsplit('-', 1)[1]}={image.name}" for image in sorted(folder.glob("*.img"))]
        done = Result(subprocess.run(arguments, capture_output=True, text=True))
        self.assertEqual(done.code, 0 if equal else 1, str(done))
        return done

    def assert_nothing_left(self, vm="web01", foreign=0):
        self.assertEqual(len(self.lab.vm(vm)["snapshots"]), foreign, "snapshots were left behind")
        host = self.lab.openstack["instance_id"]
        for volume in self.lab.volumes():
            for attachment in volume["attachments"]:
                self.assertNotEqual(attachment.get("server_id"), host, f"{volume['name']} is still attached")
        self.assertEqual([p for p in (self.state / "s" / "run").glob("*")] if (self.state / "s" / "run").exists() else [], [])

    def forget_volumes(self):
        """Makes the next test start from nothing."""
        self.ferry("abort", "--delete-volumes")

    @staticmethod
    def wait_for(condition, seconds=300, what="the condition"):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come true within {seconds} s")
