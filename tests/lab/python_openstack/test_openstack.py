#!/usr/bin/env python3
"""Drives lab/openstack with clients that other people wrote: openstacksdk and the
openstack command line. A call of theirs that fails is a bug in the lab.

Needs VMFERRY_LAB_BIN (vmferry-lab) and, where this interpreter has no openstacksdk,
VMFERRY_TEST_PYTHON (one that has it, with python-openstackclient beside it)."""

import os
import sys

try:
    import openstack
except ImportError:
    other = os.environ.get("VMFERRY_TEST_PYTHON", "")
    if not other or os.path.realpath(other) == os.path.realpath(sys.executable) and "VMFERRY_TEST_AGAIN" in os.environ:
        sys.exit("test_openstack: openstacksdk is missing; set VMFERRY_TEST_PYTHON to an interpreter that has it")
    os.environ["VMFERRY_TEST_AGAIN"] = "1"
    os.execv(other, [other] + sys.argv)

import contextlib
import datetime
import http.client
import ipaddress
import json
import pathlib
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import unittest
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openstack import exceptions

PASSWORD = "Correct-Horse-7"


def write_certificate(folder):
    """A certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256()))
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Lab:
    """One vmferry-lab openstack in a folder of its own."""

    def __init__(self, devices=""):
        binary = os.environ.get("VMFERRY_LAB_BIN", "")
        if not os.access(binary, os.X_OK):
            sys.exit("test_openstack: VMFERRY_LAB_BIN must name the vmferry-lab program")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vmferry-openstack-"))
        write_certificate(self.folder)
        (self.folder / "password").write_text(PASSWORD + "\n")
        config = {
            "listen": "127.0.0.1:0", "metadata_listen": "127.0.0.1:0", "dir": str(self.folder),
            "cert": str(self.folder / "ca.pem"), "key": str(self.folder / "key.pem"), "devices": devices,
            "control_socket": str(self.folder / "control.sock"), "ready_file": str(self.folder / "ready.json"),
            "password_file": str(self.folder / "password")}
        (self.folder / "config.json").write_text(json.dumps(config))
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen([binary, "openstack", "--config", str(self.folder / "config.json")],
                                        stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while not (self.folder / "ready.json").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit("test_openstack: the lab did not start:\n" + (self.folder / "log").read_text())
            time.sleep(0.05)
        self.ready = json.loads((self.folder / "ready.json").read_text())

    def stop(self):
        self.process.terminate()
        code = self.process.wait(timeout=30)
        self.log.close()
        log = (self.folder / "log").read_text()
        shutil.rmtree(self.folder)
        return code, log

    def control(self, method, path, body=None):
        connection = UnixConnection(str(self.folder / "control.sock"))
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 400:
            raise AssertionError(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text)

    def volume(self, volume_id):
        return next(v for v in self.control("GET", "/state")["volumes"] if v["id"] == volume_id)

    def connect(self, **auth):
        given = dict(auth_url=self.ready["auth_url"])
        kind = auth.pop("auth_type", "password")
        if kind == "password":
            given.update(username="lab", password=PASSWORD, project_name="lab", user_domain_name="Default",
                         project_domain_name="Default")
        given.update(auth)
        return openstack.connect(auth=given, auth_type=kind, region_name="RegionOne", cacert=str(self.folder / "ca.pem"),
                                 load_yaml_config=False, load_envvars=False)

    def command(self, *words, parse=True, **environment):
        """The openstack command; its JSON where it prints some."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
        env.update(OS_AUTH_URL=self.ready["auth_url"], OS_USERNAME="lab", OS_PASSWORD=PASSWORD, OS_PROJECT_NAME="lab",
                   OS_USER_DOMAIN_NAME="Default", OS_PROJECT_DOMAIN_NAME="Default", OS_IDENTITY_API_VERSION="3",
                   OS_REGION_NAME="RegionOne", OS_CACERT=str(self.folder / "ca.pem"), HOME=str(self.folder))
        env.update(environment)
        env = {k: v for k, v in env.items() if v is not None}
        program = pathlib.Path(sys.executable).with_name("openstack")
        done = subprocess.run([str(program), *words, *(["-f", "json"] if parse else [])], env=env, capture_output=True,
                              text=True, timeout=120)
        if done.returncode:
            raise AssertionError(f"openstack {' '.join(words)}: {done.stderr}\n{(self.folder / 'log').read_text()}")
        return json.loads(done.stdout) if parse else done.stdout


LAB = None


def setUpModule():
    global LAB
    LAB = Lab()
    LAB.control("POST", "/settings", {"create_delay_ms": 50, "attach_delay_ms": 150, "server_delay_ms": 200})


def tearDownModule():
    code, log = LAB.stop()
    if code != 0:
        raise AssertionError(f"the lab ended with {code}:\n{log}")
    left = subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout
    if str(LAB.folder) in left:
        raise AssertionError("loop devices left behind:\n" + left)


def until(what, seconds=20):
    """Waits for a condition, which is tried before the deadline is looked at."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.02)


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        LAB.control("DELETE", "/faults")
        LAB.control("POST", "/quota", {"gigabytes": 1000, "volumes": 50, "instances": 10, "cores": 20, "ram": 51200, "ports": 500})
        LAB.control("POST", "/settings", {"token_ttl_s": 3600, "max_disk_devices": -1, "ip_availability": "forbidden"})
        self.cloud = LAB.connect()
        self.addCleanup(self.cloud.close)
        self.cleanup_volumes = []

    def make_volume(self, size=1, **fields):
        volume = self.cloud.block_storage.create_volume(size=size, **fields)
        self.addCleanup(self.drop_volume, volume.id)
        return self.cloud.block_storage.wait_for_status(volume, "available", interval=0.05, wait=20)

    def drop_volume(self, volume_id):
        with contextlib.suppress(exceptions.NotFoundException):
            self.cloud.block_storage.delete_volume(volume_id, ignore_missing=True)
            until(lambda: not any(v["id"] == volume_id for v in LAB.control("GET", "/state")["volumes"]))

    def status(self, volume):
        return self.cloud.block_storage.get_volume(volume.id).status

    def make_port(self, **fields):
        port = self.cloud.network.create_port(**{"network_id": LAB.ready["network_id"], **fields})
        self.addCleanup(self.cloud.network.delete_port, port.id, ignore_missing=True)
        return port

    def make_server(self, volumes, ports, wait="ACTIVE", **fields):
        request = dict(name="web01", flavor_id=LAB.ready["flavor_id"], networks=[{"port": p.id} for p in ports],
                       block_device_mapping=[
                           {"uuid": v.id, "source_type": "volume", "destination_type": "volume", "boot_index": i,
                            "delete_on_termination": False} for i, v in enumerate(volumes)])
        request.update(fields)
        server = self.cloud.compute.create_server(**request)
        self.addCleanup(self.drop_server, server)
        if wait:
            server = self.cloud.compute.wait_for_server(server, status=wait, interval=0.05, wait=20)
        return server

    def drop_server(self, server):
        self.cloud.compute.delete_server(server.id, ignore_missing=True)
        until(lambda: not any(s["id"] == server.id for s in LAB.control("GET", "/state")["servers"]))

    def refused(self, kind, status, text, act):
        with self.assertRaises(kind) as caught:
            act()
        self.assertEqual(status, caught.exception.status_code)
        self.assertRegex(str(caught.exception), text)
        return caught.exception


class Identity(Case):
    def test_password(self):
        token = self.cloud.authorize()
        self.assertTrue(token)
        self.assertEqual(LAB.ready["project_id"], self.cloud.current_project_id)
        catalog = {s["type"]: s for s in self.cloud.service_catalog}
        for kind in ("identity", "volumev3", "block-storage", "compute", "network", "image"):
            self.assertEqual({"public", "internal", "admin"}, {e["interface"] for e in catalog[kind]["endpoints"]})

    def test_wrong_password(self):
        with LAB.connect(password="wrong") as cloud, self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 401)", str(caught.exception))
        self.assertIn("The request you have made requires authentication.", str(caught.exception))

    def test_wrong_project(self):
        with LAB.connect(project_name="other") as cloud, self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 401)", str(caught.exception))

    def test_application_credential(self):
        path = pathlib.Path(LAB.ready["appcred_file"])
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        written = json.loads(path.read_text())
        for auth in ({"application_credential_id": written["id"]},
                     {"application_credential_name": written["name"], "username": "lab", "user_domain_name": "Default"}):
            with LAB.connect(auth_type="v3applicationcredential", application_credential_secret=written["secret"],
                             **auth) as cloud:
                self.assertEqual(LAB.ready["project_id"], cloud.current_project_id)
                list(cloud.block_storage.volumes())
        with LAB.connect(auth_type="v3applicationcredential", application_credential_secret="wrong",
                         application_credential_id=written["id"]) as cloud, self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 401)", str(caught.exception))

    def test_application_credential_makes_no_tokens(self):
        written = json.loads(pathlib.Path(LAB.ready["appcred_file"]).read_text())
        with LAB.connect(auth_type="v3applicationcredential", application_credential_id=written["id"],
                         application_credential_secret=written["secret"]) as cloud:
            token = cloud.authorize()
        with LAB.connect(auth_type="token", token=token, project_name="lab", project_domain_name="Default") as cloud, \
                self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 403)", str(caught.exception))

    def test_token(self):
        token = self.cloud.authorize()
        with LAB.connect(auth_type="token", token=token, project_name="lab", project_domain_name="Default") as cloud:
            self.assertEqual(LAB.ready["project_id"], cloud.current_project_id)
            list(cloud.compute.flavors())

    def test_life_of_application_credentials(self):
        made = self.cloud.identity.create_application_credential(user=self.cloud.current_user_id, name="second")
        self.assertTrue(made.secret)
        with LAB.connect(auth_type="v3applicationcredential", application_credential_id=made.id,
                         application_credential_secret=made.secret) as cloud:
            list(cloud.compute.servers())
            self.cloud.identity.delete_application_credential(self.cloud.current_user_id, made.id)
            with self.assertRaises(Exception) as caught:
                list(cloud.compute.servers())
            self.assertIn("Could not find Application Credential", str(caught.exception))  # as Keystone has it

    def test_revoked_in_the_middle(self):
        first = self.cloud.authorize()
        list(self.cloud.block_storage.volumes())
        LAB.control("POST", "/tokens/revoke")
        list(self.cloud.block_storage.volumes())  # the SDK authenticates again by itself
        self.assertNotEqual(first, self.cloud.authorize())

    def test_expiry(self):
        LAB.control("POST", "/settings", {"token_ttl_s": 1})
        with LAB.connect() as cloud:
            token = cloud.authorize()
        url = f"https://127.0.0.1:{LAB.ready['port']}/volume/v3/{LAB.ready['project_id']}/volumes"
        import requests
        answer = requests.get(url, headers={"X-Auth-Token": token}, verify=str(LAB.folder / "ca.pem"))
        self.assertEqual(200, answer.status_code)
        time.sleep(1.1)
        answer = requests.get(url, headers={"X-Auth-Token": token}, verify=str(LAB.folder / "ca.pem"))
        self.assertEqual(401, answer.status_code)
        self.assertEqual({"error": {"code": 401, "title": "Unauthorized",
                                    "message": "The request you have made requires authentication."}}, answer.json())
        self.assertIn("Keystone uri=", answer.headers["WWW-Authenticate"])


class Volumes(Case):
    def test_life(self):
        LAB.control("POST", "/settings", {"create_delay_ms": 1000})
        self.addCleanup(LAB.control, "POST", "/settings", {"create_delay_ms": 50})
        volume = self.cloud.block_storage.create_volume(size=2, name="web01-2000", description="disk 0", volume_type="fast",
                                                        metadata={"vm": "vm-1"}, availability_zone="nova")
        self.assertEqual("creating", volume.status)
        self.addCleanup(self.drop_volume, volume.id)
        volume = self.cloud.block_storage.wait_for_status(volume, "available", interval=0.05, wait=20)
        self.assertEqual(("web01-2000", "disk 0", "fast", 2, {"vm": "vm-1"}, False),
                         (volume.name, volume.description, volume.volume_type, volume.size, volume.metadata,
                          volume.is_bootable))
        file = LAB.folder / "volumes" / f"volume-{volume.id}"
        self.assertEqual(2 << 30, file.stat().st_size)
        self.assertLess(file.stat().st_blocks * 512, 1 << 20)
        self.cloud.block_storage.set_volume_metadata(volume, disk="2000")
        self.assertEqual({"vm": "vm-1", "disk": "2000"}, self.cloud.block_storage.get_volume_metadata(volume).metadata)
        self.cloud.block_storage.delete_volume_metadata(volume, ["vm"])
        self.cloud.block_storage.set_volume_bootable_status(volume, True)
        self.cloud.block_storage.set_volume_image_metadata(volume, hw_disk_bus="virtio", os_type="linux")
        self.cloud.block_storage.delete_volume_image_metadata(volume, ["os_type"])
        self.cloud.block_storage.update_volume(volume, name="renamed")
        self.cloud.block_storage.extend_volume(volume, 3)
        until(lambda: self.status(volume) == "available")
        volume = self.cloud.block_storage.get_volume(volume.id)
        self.assertEqual(("renamed", True, {"disk": "2000"}, {"hw_disk_bus": "virtio"}, 3),
                         (volume.name, volume.is_bootable, volume.metadata, volume.volume_image_metadata, volume.size))
        self.assertEqual(3 << 30, file.stat().st_size)
        self.cloud.block_storage.delete_volume(volume)
        until(lambda: not file.exists())
        self.refused(exceptions.NotFoundException, 404, f"Volume {volume.id} could not be found",
                     lambda: self.cloud.block_storage.get_volume(volume.id))

    def test_filters(self):
        one = self.make_volume(name="one", metadata={"migrate_kit": "true", "vm": "it's 1"})
        two = self.make_volume(name="two", metadata={"migrate_kit": "true"})
        self.assertEqual([one.id], [v.id for v in self.cloud.block_storage.volumes(name="one")])

        def ids(**query):  # the SDK would filter by metadata itself
            answer = self.cloud.block_storage.get("/volumes/detail", params=query)
            self.assertEqual(200, answer.status_code, answer.text)
            return {v["id"] for v in answer.json()["volumes"]}

        self.assertEqual({one.id}, ids(name="one"))
        self.assertEqual({one.id, two.id}, ids(metadata="{'migrate_kit': 'true'}"))
        self.assertEqual({one.id}, ids(metadata=str({"migrate_kit": "true", "vm": "it's 1"})))
        self.assertEqual({one.id}, ids(metadata=json.dumps({"vm": "it's 1"})))
        self.assertEqual(set(), ids(metadata="not a dictionary"))
        self.assertEqual({one.id, two.id}, ids(status="available"))
        self.assertEqual(set(), ids(status="error"))

    def test_pages(self):
        made = [self.make_volume(name=f"page-{i}").id for i in range(5)]
        self.assertEqual(made[::-1], [v.id for v in self.cloud.block_storage.volumes(limit=2)])
        answer = self.cloud.block_storage.get("/volumes?limit=2").json()
        self.assertEqual(made[:-3:-1], [v["id"] for v in answer["volumes"]])
        self.assertEqual("next", answer["volumes_links"][0]["rel"])
        self.assertIn("marker=" + made[3], answer["volumes_links"][0]["href"])
        LAB.control("DELETE", "/calls")
        list(self.cloud.block_storage.volumes(limit=2))
        pages = [c for c in LAB.control("GET", "/calls") if c["method"] == "GET" and "/volumes" in c["path_or_object"]]
        self.assertGreaterEqual(len(pages), 3)
        self.assertEqual(404, self.cloud.block_storage.get("/volumes?marker=nothing").status_code)

    def test_quota(self):
        LAB.control("POST", "/quota", {"gigabytes": 5})
        self.make_volume(size=3)
        self.refused(exceptions.HttpException, 413, "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds "
                     "allowed gigabytes quota. Requested 3G, quota is 5G and 3G has been consumed.",
                     lambda: self.cloud.block_storage.create_volume(size=3))
        LAB.control("POST", "/quota", {"volumes": 1})
        self.refused(exceptions.HttpException, 413, r"VolumeLimitExceeded: Maximum number of volumes allowed \(1\) exceeded "
                     "for quota 'volumes'.", lambda: self.cloud.block_storage.create_volume(size=1))
        limits = self.cloud.block_storage.get_limits().absolute
        self.assertEqual((5, 3, 1, 1), (limits.max_total_volume_gigabytes, limits.total_gigabytes_used,
                                        limits.max_total_volumes, limits.total_volumes_used))
        quota = self.cloud.block_storage.get_quota_set(LAB.ready["project_id"], usage=True)
        self.assertEqual((5, 3), (quota.gigabytes, quota.usage["gigabytes"]))

    def test_failures_by_script(self):
        LAB.control("POST", "/faults", {"service": "volume", "method": "POST", "path_regex": "/volumes$", "kind": "fault",
                                        "fault": "no space", "count": 1})
        volume = self.cloud.block_storage.create_volume(size=1)
        self.addCleanup(self.drop_volume, volume.id)
        until(lambda: self.status(volume) == "error")
        LAB.control("POST", "/faults", {"service": "volume", "method": "POST", "kind": "http", "status": 500, "count": 1,
                                        "message": "broken"})
        self.refused(exceptions.HttpException, 500, "broken", lambda: self.cloud.block_storage.create_volume(size=1))
        LAB.control("POST", "/faults", {"service": "volume", "method": "POST", "kind": "lost-reply"})
        with self.assertRaises(Exception):
            self.cloud.block_storage.create_volume(size=1, name="lost")
        lost = list(self.cloud.block_storage.volumes(name="lost"))
        self.assertEqual(1, len(lost))
        self.addCleanup(self.drop_volume, lost[0].id)
        until(lambda: self.status(lost[0]) == "available")
        LAB.control("POST", "/faults", {"service": "volume", "method": "GET", "kind": "expire"})
        list(self.cloud.block_storage.volumes())
        LAB.control("POST", "/faults", {"service": "volume", "method": "GET", "kind": "http", "status": 503, "retry_after": 7})
        answer = self.cloud.session.request(self.cloud.block_storage.get_endpoint() + "/limits", "GET", raise_exc=False,
                                            connect_retries=0, status_code_retries=0)
        self.assertEqual((503, "7"), (answer.status_code, answer.headers["Retry-After"]))
        self.assertEqual(503, answer.json()["serviceUnavailable"]["code"])

    def test_types_and_zones(self):
        self.assertLessEqual({"lab", "fast"}, {t.name for t in self.cloud.block_storage.types()})
        self.assertEqual("fast", self.cloud.block_storage.find_type("fast").name)
        self.refused(exceptions.NotFoundException, 404, "Volume type with name gold could not be found",
                     lambda: self.cloud.block_storage.create_volume(size=1, volume_type="gold"))
        self.assertEqual(["nova"], [z.name for z in self.cloud.block_storage.availability_zones()])

    def test_microversion_too_high(self):
        answer = self.cloud.block_storage.get("/volumes", microversion="3.99")
        self.assertEqual(406, answer.status_code)
        self.assertIn("Version 3.99 is not supported by the API. Minimum is 3.0 and maximum is 3.70.", answer.text)


class Attachments(Case):
    def test_device_of_the_conversion_host(self):
        volume = self.make_volume(name="disk")
        host = LAB.ready["instance_id"]
        link = LAB.folder / "by-id" / f"virtio-{volume.id[:20]}"
        # Long enough to look at the states in between on a slow machine.
        LAB.control("POST", "/settings", {"attach_delay_ms": 3000})
        self.addCleanup(LAB.control, "POST", "/settings", {"attach_delay_ms": 150})
        self.cloud.compute.create_volume_attachment(host, volume_id=volume.id)
        self.assertIn(self.status(volume), ("reserved", "attaching"))
        self.assertFalse(link.exists())
        until(lambda: self.status(volume) == "in-use")
        shown = self.cloud.block_storage.get_volume(volume.id)
        self.assertEqual([host], [a["server_id"] for a in shown.attachments])
        about = os.stat(link)
        if stat.S_ISBLK(about.st_mode):
            identity = LAB.folder / "identity" / f"{os.major(about.st_rdev)}:{os.minor(about.st_rdev)}"
        else:
            identity = LAB.folder / "identity" / f"{about.st_dev}-{about.st_ino}"
        self.assertEqual(f"serial={volume.id[:20]}\nbytes={1 << 30}\n", identity.read_text())
        with open(link, "r+b", buffering=0) as device:  # through the device into the file
            device.seek(0, os.SEEK_END)
            self.assertEqual(1 << 30, device.tell())
            device.seek(1 << 20)
            device.write(b"vmferry!" * 512)
            os.fsync(device.fileno())
        with open(LAB.folder / "volumes" / f"volume-{volume.id}", "rb") as file:
            file.seek(1 << 20)
            self.assertEqual(b"vmferry!" * 512, file.read(4096))
        self.assertEqual(os.path.realpath(link), LAB.volume(volume.id)["device"])
        listed = list(self.cloud.compute.volume_attachments(host))
        self.assertEqual([volume.id], [a.volume_id for a in listed])
        self.assertRegex(listed[0].device, "^/dev/vd[b-z]$")
        self.refused(exceptions.BadRequestException, 400, "status must be available|already attached",
                     lambda: self.cloud.compute.create_volume_attachment(host, volume_id=volume.id))
        self.refused(exceptions.BadRequestException, 400, "must not be migrating, attached",
                     lambda: self.cloud.block_storage.delete_volume(volume, ignore_missing=False))
        self.cloud.compute.delete_volume_attachment(host, volume.id)
        self.assertEqual("detaching", self.status(volume))
        self.refused(exceptions.BadRequestException, 400, "Unable to detach volume",
                     lambda: self.cloud.compute.delete_volume_attachment(host, volume.id))
        until(lambda: self.status(volume) == "available")
        self.assertFalse(os.path.lexists(link) or identity.exists())
        self.refused(exceptions.NotFoundException, 404, "is not attached to volume",
                     lambda: self.cloud.compute.delete_volume_attachment(host, volume.id, ignore_missing=False))

    def test_extend_in_use(self):
        volume = self.make_volume()
        host = LAB.ready["instance_id"]
        self.cloud.compute.create_volume_attachment(host, volume_id=volume.id)
        until(lambda: self.status(volume) == "in-use")
        extend = {"os-extend": {"new_size": 2}}
        old = self.cloud.block_storage.post(f"/volumes/{volume.id}/action", json=extend, microversion="3.41")
        self.assertEqual((400, True), (old.status_code, "status must be" in old.text))
        new = self.cloud.block_storage.post(f"/volumes/{volume.id}/action", json=extend, microversion="3.42")
        self.assertEqual(202, new.status_code)
        until(lambda: self.status(volume) == "in-use")
        with open(LAB.folder / "by-id" / f"virtio-{volume.id[:20]}", "rb") as device:
            self.assertEqual(2 << 30, device.seek(0, os.SEEK_END))
        self.cloud.compute.delete_volume_attachment(host, volume.id)
        until(lambda: self.status(volume) == "available")

    def test_attach_fails_by_script(self):
        volume = self.make_volume()
        LAB.control("POST", "/faults", {"service": "compute", "method": "POST", "path_regex": "os-volume_attachments",
                                        "kind": "fault", "fault": "DeviceNotFound"})
        self.cloud.compute.create_volume_attachment(LAB.ready["instance_id"], volume_id=volume.id)
        until(lambda: self.status(volume) == "available")
        self.assertFalse(os.path.lexists(LAB.folder / "by-id" / f"virtio-{volume.id[:20]}"))
        self.assertEqual([], list(self.cloud.compute.volume_attachments(LAB.ready["instance_id"])))

    def test_metadata_service(self):
        with urllib.request.urlopen(LAB.ready["metadata_url"]) as answer:
            self.assertEqual(LAB.ready["instance_id"], json.load(answer)["uuid"])


class Servers(Case):
    def test_life(self):
        LAB.control("POST", "/settings", {"server_delay_ms": 3000})  # to see BUILD on a slow machine
        self.addCleanup(LAB.control, "POST", "/settings", {"server_delay_ms": 200})
        boot, data = self.make_volume(name="boot"), self.make_volume(name="data")
        self.cloud.block_storage.set_volume_bootable_status(boot, True)
        port = self.make_port(mac_address="00:50:56:aa:bb:01", fixed_ips=[{"ip_address": "192.0.2.77"}],
                              security_groups=[self.cloud.network.find_security_group("web").id])
        request = {"server": {
            "name": "web01", "flavorRef": LAB.ready["flavor_id"], "metadata": {"vm": "vm-1"}, "tags": ["moved"],
            "availability_zone": "nova", "networks": [{"port": port.id}], "block_device_mapping_v2": [
                {"uuid": data.id, "source_type": "volume", "destination_type": "volume", "boot_index": 1},
                {"uuid": boot.id, "source_type": "volume", "destination_type": "volume", "boot_index": 0}]}}
        answer = self.cloud.compute.post("/servers", json=request, microversion="2.52")
        self.assertEqual(202, answer.status_code, answer.text)
        server = self.cloud.compute.get_server(answer.json()["server"]["id"])
        self.addCleanup(self.drop_server, server)
        self.assertEqual("BUILD", server.status)
        server = self.cloud.compute.wait_for_server(server, interval=0.05, wait=20)
        self.assertEqual("192.0.2.77", server.addresses["lab-net"][0]["addr"])
        self.assertEqual("00:50:56:aa:bb:01", server.addresses["lab-net"][0]["OS-EXT-IPS-MAC:mac_addr"])
        self.assertEqual([boot.id, data.id], [v["id"] for v in server.attached_volumes])
        self.assertEqual([{"name": "web"}], server.security_groups)
        self.assertEqual(("m1.small", {"vm": "vm-1"}), (server.flavor["original_name"], server.metadata))
        self.assertEqual("in-use", self.status(boot))
        port = self.cloud.network.get_port(port.id)
        self.assertEqual((server.id, "compute:nova"), (port.device_id, port.device_owner))
        state = next(s for s in LAB.control("GET", "/state")["servers"] if s["id"] == server.id)
        self.assertEqual(([boot.id, data.id], [port.id], ["moved"]), (state["volumes"], state["ports"], state["tags"]))
        self.assertFalse(os.path.lexists(LAB.folder / "by-id" / f"virtio-{boot.id[:20]}"))
        self.assertEqual([port.id], [i.port_id for i in self.cloud.compute.server_interfaces(server)])
        self.refused(exceptions.BadRequestException, 400, "Cannot detach a root device volume",
                     lambda: self.cloud.compute.delete_volume_attachment(server, boot))
        found = self.cloud.compute.get("/servers?tags=moved", microversion="2.26").json()["servers"]
        self.assertEqual([server.id], [s["id"] for s in found])
        self.cloud.compute.stop_server(server)
        self.cloud.compute.wait_for_server(server, status="SHUTOFF", interval=0.05, wait=20)
        self.refused(exceptions.ConflictException, 409, f"Cannot 'stop' instance {server.id} while it is in vm_state stopped",
                     lambda: self.cloud.compute.stop_server(server))
        self.cloud.compute.start_server(server)
        self.cloud.compute.wait_for_server(server, status="ACTIVE", interval=0.05, wait=20)
        self.assertIn("web01", self.cloud.compute.get_server_console_output(server)["output"])
        self.drop_server(server)
        self.assertEqual(("available", "available"), (self.status(boot), self.status(data)))
        self.assertEqual("", self.cloud.network.get_port(port.id).device_id)

    def test_network_gives_a_port(self):
        boot = self.make_volume()
        self.cloud.block_storage.set_volume_bootable_status(boot, True)
        server = self.make_server([boot], [], networks=[{"uuid": LAB.ready["network_id"]}])
        ports = list(self.cloud.network.ports(device_id=server.id))
        self.assertEqual(1, len(ports))
        self.drop_server(server)
        self.assertIsNone(self.cloud.network.find_port(ports[0].id))

    def test_refusals(self):
        boot = self.make_volume()
        port = self.make_port()
        self.refused(exceptions.BadRequestException, 400, f"Block Device {boot.id} is not bootable",
                     lambda: self.make_server([boot], [port]))
        self.cloud.block_storage.set_volume_bootable_status(boot, True)
        self.refused(exceptions.BadRequestException, 400, "Flavor none could not be found",
                     lambda: self.make_server([boot], [port], flavor_id="none"))
        server = self.make_server([boot], [port])
        self.refused(exceptions.BadRequestException, 400, "status must be available",
                     lambda: self.make_server([boot], []))
        other = self.make_volume()
        self.cloud.block_storage.set_volume_bootable_status(other, True)
        self.refused(exceptions.ConflictException, 409, f"Port {port.id} is still in use",
                     lambda: self.make_server([other], [port]))
        LAB.control("POST", "/quota", {"cores": 2, "instances": 2})
        port = self.make_port()
        self.refused(exceptions.ForbiddenException, 403, "Quota exceeded for cores, instances: Requested 1, 1, but already "
                     "used 2, 2 of 2, 2 cores, instances", lambda: self.make_server([other], [port]))
        limits = self.cloud.compute.get_limits().absolute
        self.assertEqual((2, 2), (limits.total_cores, limits.total_cores_used))
        LAB.control("POST", "/quota", {"cores": 20, "instances": 10})
        LAB.control("POST", "/faults", {"service": "compute", "method": "POST", "path_regex": "/servers$", "kind": "fault",
                                        "fault": "NoValidHost", "message": "No valid host was found. "})
        server = self.make_server([other], [port], wait=None)
        until(lambda: self.cloud.compute.get_server(server.id).status == "ERROR")
        self.assertEqual({"code": 500, "message": "No valid host was found. "},
                         {k: v for k, v in self.cloud.compute.get_server(server.id).fault.items() if k != "created"})

    def test_microversions(self):
        answer = self.cloud.compute.get("/servers", microversion="2.999")
        self.assertEqual(406, answer.status_code)
        self.assertIn("Minimum is 2.1 and maximum is 2.93", answer.json()["computeFault"]["message"])
        old = self.cloud.compute.get(f"/servers/{LAB.ready['instance_id']}", microversion="2.1").json()["server"]
        new = self.cloud.compute.get(f"/servers/{LAB.ready['instance_id']}", microversion="2.93").json()["server"]
        self.assertIn("id", old["flavor"])
        self.assertNotIn("tags", old)
        self.assertIn("original_name", new["flavor"])
        self.assertIn("tags", new)
        tags = {"server": {"name": "x", "flavorRef": "1", "networks": [], "tags": ["a"]}}
        answer = self.cloud.compute.post("/servers", json=tags, microversion="2.51")
        self.assertEqual(400, answer.status_code)
        self.assertIn("'tags' was unexpected", answer.text)

    def test_flavors_and_limits(self):
        self.assertEqual(["m1.tiny", "m1.small", "m1.medium", "g1.medium", "nowhere"], [f.name for f in self.cloud.compute.flavors()])
        self.assertEqual(2048, self.cloud.compute.find_flavor("m1.small").ram)
        quota = self.cloud.compute.get_quota_set(LAB.ready["project_id"])
        self.assertEqual((20, 10), (quota.cores, quota.instances))
        self.assertEqual(["nova"], [z.name for z in self.cloud.compute.availability_zones()])


class Ports(Case):
    def test_life(self):
        port = self.make_port(name="web01-0", description="from vm-1", port_security_enabled=False, security_groups=[])
        self.assertRegex(port.mac_address, "^fa:16:3e:")
        self.assertEqual("192.0.2", port.fixed_ips[0]["ip_address"].rsplit(".", 1)[0])
        self.assertEqual(([], False), (port.security_group_ids, port.is_port_security_enabled))
        port = self.cloud.network.update_port(port, name="renamed")
        self.cloud.network.set_tags(port, ["job-1", "vmferry"])
        self.assertEqual([port.id], [p.id for p in self.cloud.network.ports(tags="job-1,vmferry")])
        self.assertEqual([port.id], [p.id for p in self.cloud.network.ports(mac_address=port.mac_address)])
        address = port.fixed_ips[0]["ip_address"]
        self.assertEqual([port.id], [p.id for p in self.cloud.network.ports(fixed_ips="ip_address=" + address)])
        self.cloud.network.delete_port(port, ignore_missing=False)
        self.refused(exceptions.NotFoundException, 404, f"Port {port.id} could not be found",
                     lambda: self.cloud.network.get_port(port.id))

    def test_conflicts(self):
        port = self.make_port(mac_address="00:50:56:00:00:01", fixed_ips=[{"ip_address": "192.0.2.50"}])
        self.assertEqual("00:50:56:00:00:01", port.mac_address)
        network = LAB.ready["network_id"]
        self.refused(exceptions.ConflictException, 409, f"Unable to complete operation for network {network}. The mac "
                     "address 00:50:56:00:00:01 is in use.", lambda: self.make_port(mac_address="00:50:56:00:00:01"))
        self.refused(exceptions.ConflictException, 409, "IP address 192.0.2.50 already allocated in subnet",
                     lambda: self.make_port(fixed_ips=[{"ip_address": "192.0.2.50"}]))
        self.refused(exceptions.BadRequestException, 400, "IP address 10.0.0.1 is not a valid IP for any of the subnets on "
                     "the specified network.", lambda: self.make_port(fixed_ips=[{"ip_address": "10.0.0.1"}]))
        self.refused(exceptions.BadRequestException, 400, "is not a valid IP for the specified subnet.", lambda: self.make_port(
            fixed_ips=[{"ip_address": "10.0.0.1", "subnet_id": LAB.ready["subnet_id"]}]))
        self.refused(exceptions.NotFoundException, 404, "could not be found", lambda: self.make_port(network_id="nothing"))

    def test_somebody_elses_network(self):
        shared = LAB.ready["shared_network_id"]
        self.assertEqual(shared, self.make_port(network_id=shared).network_id)
        self.refused(exceptions.ForbiddenException, 403, "rule:create_port:mac_address.* is disallowed by policy",
                     lambda: self.make_port(network_id=shared, mac_address="00:50:56:00:00:09"))

    def test_names(self):
        self.assertEqual(LAB.ready["network_id"], self.cloud.network.find_network("lab-net").id)
        self.assertEqual(LAB.ready["subnet_id"], self.cloud.network.find_subnet("lab-subnet").id)
        self.assertEqual({"default", "web"}, {g.name for g in self.cloud.network.security_groups()})
        self.assertEqual(500, self.cloud.network.get_quota(LAB.ready["project_id"]).ports)


class Room(Case):
    """What a client asks before it begins: is the address free, is there room for ports, volumes and servers?"""

    def found(self, **filters):
        return sorted(p.id for p in self.cloud.network.ports(**filters))

    def test_ports_by_mac_and_network(self):
        mine = self.make_port(mac_address="00:50:56:00:01:01")
        theirs = self.make_port(network_id=LAB.ready["shared_network_id"])
        network = LAB.ready["network_id"]
        self.assertEqual([mine.id], self.found(mac_address="00:50:56:00:01:01", network_id=network))
        self.assertEqual([mine.id], self.found(mac_address="00:50:56:00:01:01".upper(), network_id=network))
        self.assertEqual([], self.found(mac_address="00:50:56:00:01:01", network_id=LAB.ready["shared_network_id"]))
        self.assertEqual([], self.found(mac_address="00:50:56:00:01:02", network_id=network))
        both = self.cloud.network.get(f"/ports?mac_address={mine.mac_address}&mac_address={theirs.mac_address}").json()["ports"]
        self.assertEqual({mine.id, theirs.id}, {p["id"] for p in both})

    def test_ports_by_address(self):
        one, two = (self.make_port(fixed_ips=[{"ip_address": f"192.0.2.{n}"}]) for n in (60, 61))
        self.assertEqual([one.id], self.found(fixed_ips="ip_address=192.0.2.60"))
        self.assertEqual([], self.found(fixed_ips="ip_address=192.0.2.6"))
        self.assertEqual([], self.found(fixed_ips="ip_address=192.0.2.62"))
        self.assertEqual(sorted([one.id, two.id]), self.found(fixed_ips=["ip_address=192.0.2.60", "ip_address=192.0.2.61"]))
        subnet = f"subnet_id={LAB.ready['subnet_id']}"
        self.assertEqual([two.id], self.found(fixed_ips=["ip_address=192.0.2.61", subnet]))
        self.assertIn(one.id, self.found(fixed_ips=subnet))
        self.assertEqual([], self.found(fixed_ips=["ip_address=192.0.2.61", "subnet_id=nothing"]))

    def test_subnet(self):
        subnet = self.cloud.network.get_subnet(LAB.ready["subnet_id"])
        self.assertEqual(("192.0.2.0/24", "192.0.2.1", 4, LAB.ready["network_id"]),
                         (subnet.cidr, subnet.gateway_ip, subnet.ip_version, subnet.network_id))
        self.assertEqual([{"start": "192.0.2.2", "end": "192.0.2.254"}], subnet.allocation_pools)
        path = f"/subnets/{subnet.id}/pool"
        self.addCleanup(LAB.control, "POST", path, subnet.allocation_pools[0])
        LAB.control("POST", path, {"start": "192.0.2.200", "end": "192.0.2.201"})
        self.assertEqual([{"start": "192.0.2.200", "end": "192.0.2.201"}], self.cloud.network.get_subnet(subnet.id).allocation_pools)
        self.assertEqual({"192.0.2.200", "192.0.2.201"}, {self.make_port().fixed_ips[0]["ip_address"] for _ in range(2)})
        self.refused(exceptions.ConflictException, 409, "No more IP addresses available on network", self.make_port)
        self.make_port(fixed_ips=[{"ip_address": "192.0.2.70"}])  # outside of the pool an address may still be asked for
        for wrong in ({"start": "192.0.2.9", "end": "192.0.2.8"}, {"start": "10.0.0.1", "end": "10.0.0.2"}, {}):
            self.assertRaises(AssertionError, LAB.control, "POST", path, wrong)

    def test_addresses_in_use(self):
        network = LAB.ready["network_id"]
        self.assertIsNotNone(self.cloud.network.find_extension("network-ip-availability"))
        ask = lambda: self.cloud.network.get_network_ip_availability(network)
        self.refused(exceptions.ForbiddenException, 403, "Forbidden", ask)
        self.assertEqual([], list(self.cloud.network.network_ip_availabilities()))
        LAB.control("POST", "/settings", {"ip_availability": "hidden"})
        self.refused(exceptions.NotFoundException, 404, "Not Found", ask)
        LAB.control("POST", "/settings", {"ip_availability": "shown"})
        before = ask()
        self.make_port(fixed_ips=[{"ip_address": "192.0.2.71"}, {"ip_address": "192.0.2.72"}])
        after = ask()
        self.assertEqual((253, 2), (after.total_ips, after.used_ips - before.used_ips))
        self.assertEqual([{"subnet_id": LAB.ready["subnet_id"], "subnet_name": "lab-subnet", "cidr": "192.0.2.0/24", "ip_version": 4,
                           "total_ips": 253, "used_ips": after.used_ips}], after.subnet_ip_availability)
        self.assertEqual("lab-net", after.network_name)
        self.assertEqual({"lab-net", "shared-net", "public"}, {a.network_name for a in self.cloud.network.network_ip_availabilities()})
        self.assertEqual([after.used_ips], [a.used_ips for a in self.cloud.network.network_ip_availabilities(network_name="lab-net")])
        self.refused(exceptions.NotFoundException, 404, "Network nothing could not be found",
                     lambda: self.cloud.network.get_network_ip_availability("nothing"))
        self.assertRaises(AssertionError, LAB.control, "POST", "/settings", {"ip_availability": "perhaps"})

    def test_quota_of_ports(self):
        project = LAB.ready["project_id"]
        before = self.cloud.network.get_quota(project, details=True).ports
        self.assertEqual((500, 0), (before["limit"], before["reserved"]))
        self.make_port()
        answer = self.cloud.network.get(f"/quotas/{project}/details.json").json()["quota"]["port"]
        self.assertEqual({"limit": 500, "used": before["used"] + 1, "reserved": 0}, answer)
        LAB.control("POST", "/quota", {"ports": before["used"] + 1})
        self.assertEqual(before["used"] + 1, self.cloud.network.get_quota(project).ports)
        self.refused(exceptions.ConflictException, 409, r"Quota exceeded for resources: \['port'\]", self.make_port)
        LAB.control("POST", "/quota", {"ports": -1})
        self.make_port()
        self.refused(exceptions.ForbiddenException, 403, "Only admin is authorized to access quotas for another tenant",
                     lambda: self.cloud.network.get_quota("0" * 32, details=True))

    def test_limits_of_volumes(self):
        LAB.control("POST", "/quota", {"gigabytes": 77, "volumes": 7})
        before = self.cloud.block_storage.get("/limits").json()["limits"]["absolute"]
        self.make_volume(size=3)
        after = self.cloud.block_storage.get_limits().absolute
        self.assertEqual((77, 7), (after.max_total_volume_gigabytes, after.max_total_volumes))
        self.assertEqual((before["totalGigabytesUsed"] + 3, before["totalVolumesUsed"] + 1),
                         (after.total_gigabytes_used, after.total_volumes_used))
        endpoint = self.cloud.block_storage.get_endpoint()
        self.assertTrue(endpoint.endswith("/v3/" + LAB.ready["project_id"]), endpoint)
        LAB.control("POST", "/quota", {"gigabytes": -1})
        self.assertEqual(-1, self.cloud.block_storage.get_limits().absolute.max_total_volume_gigabytes)

    def test_limits_of_servers(self):
        LAB.control("POST", "/quota", {"instances": 5, "cores": 9, "ram": 4096})
        answer = self.cloud.compute.get("/limits").json()["limits"]["absolute"]
        self.assertEqual((5, 9, 4096), tuple(answer[name] for name in ("maxTotalInstances", "maxTotalCores", "maxTotalRAMSize")))
        self.assertEqual((1, 1, 512), tuple(answer[name] for name in ("totalInstancesUsed", "totalCoresUsed", "totalRAMUsed")))
        volume = self.make_volume()
        self.cloud.block_storage.set_volume_bootable_status(volume, True)
        self.make_server([volume], [self.make_port()])
        limits = self.cloud.compute.get_limits().absolute
        self.assertEqual((2, 2, 512 + 2048), (limits.instances_used, limits.total_cores_used, limits.total_ram_used))

    def test_volumes_of_a_server(self):
        host = LAB.ready["instance_id"]
        self.assertEqual([], list(self.cloud.compute.volume_attachments(host)))
        one, two = self.make_volume(), self.make_volume()
        LAB.control("POST", "/settings", {"max_disk_devices": 2})  # the root disk is one of them
        attached = self.cloud.compute.create_volume_attachment(host, volume_id=one.id)
        until(lambda: self.status(one) == "in-use")
        self.assertEqual([(one.id, attached.device)], [(a.volume_id, a.device) for a in self.cloud.compute.volume_attachments(host)])
        answer = self.cloud.compute.get(f"/servers/{host}/os-volume_attachments").json()["volumeAttachments"]
        self.assertEqual([(one.id, one.id, host)], [(a["id"], a["volumeId"], a["serverId"]) for a in answer])
        self.refused(exceptions.ForbiddenException, 403, r"The maximum allowed number of disk devices \(2\) to attach to a single "
                     "instance has been exceeded.", lambda: self.cloud.compute.create_volume_attachment(host, volume_id=two.id))
        self.assertEqual("available", self.status(two))
        self.cloud.compute.delete_volume_attachment(host, one.id)
        until(lambda: self.status(one) == "available")
        self.assertEqual([], list(self.cloud.compute.volume_attachments(host)))


class Hosts(Case):
    """What a conversion host is made of, by somebody else's client."""

    def test_groups_and_floating_ips(self):
        network = self.cloud.network
        group = network.create_security_group(name="sdk", description="mine")
        self.addCleanup(network.delete_security_group, group)
        rule = dict(security_group_id=group.id, direction="ingress", protocol="tcp", port_range_min=22, port_range_max=22)
        network.create_security_group_rule(remote_ip_prefix="192.0.2.0/24", **rule)
        self.refused(exceptions.ConflictException, 409, "Security group rule already exists",
                     lambda: network.create_security_group_rule(remote_ip_prefix="192.0.2.0/24", **rule))
        made = [r for r in network.security_group_rules(security_group_id=group.id) if r.direction == "ingress"]
        self.assertEqual(["192.0.2.0/24"], [r.remote_ip_prefix for r in made])
        port = self.make_port(security_groups=[group.id])
        self.refused(exceptions.ConflictException, 409, "in use", lambda: network.delete_security_group(group, ignore_missing=False))
        floating = network.create_ip(floating_network_id=network.find_network("public").id, port_id=port.id, description="mine")
        self.assertEqual([floating.id], [f.id for f in network.ips(description="mine")])
        self.assertEqual(("ACTIVE", port.fixed_ips[0]["ip_address"]), (floating.status, floating.fixed_ip_address))
        network.delete_port(port)
        self.assertEqual("DOWN", network.get_ip(floating).status)
        network.delete_ip(floating)
        network.delete_security_group_rule(made[0])

    def test_a_server_from_an_image(self):
        image = self.cloud.image.find_image("conversion-host-image")
        self.cloud.compute.create_keypair(name="sdk", public_key="ssh-rsa YWJj")
        self.addCleanup(self.cloud.compute.delete_keypair, "sdk")
        request = dict(name="sdk-host", flavor_id=LAB.ready["flavor_id"], networks=[{"uuid": LAB.ready["network_id"]}], key_name="sdk")
        self.refused(exceptions.ForbiddenException, 403, "zero disk",
                     lambda: self.cloud.compute.create_server(image_id=image.id, **request))
        server = self.cloud.compute.create_server(block_device_mapping_v2=[
            {"uuid": image.id, "source_type": "image", "destination_type": "volume", "boot_index": 0, "volume_size": 2,
             "delete_on_termination": True}], **request)
        server = self.cloud.compute.wait_for_server(server, interval=0.05, wait=20)
        self.assertEqual("sdk", server.key_name)
        volume = self.cloud.block_storage.get_volume(server.attached_volumes[0]["id"])
        self.assertEqual((2, "in-use", True), (volume.size, volume.status, volume.is_bootable))
        self.drop_server(server)
        until(lambda: self.cloud.block_storage.find_volume(volume.id) is None)


class Unmodelled(Case):
    def test_loud(self):
        for service, path in (("block_storage", "/snapshots"), ("compute", "/os-hypervisors"), ("network", "/routers"),
                              ("image", "/v2/tasks"), ("block_storage", "/volumes?group_id=1"), ("network", "/ports?ip=1")):
            answer = getattr(self.cloud, service).get(path)
            self.assertEqual(501, answer.status_code, path)
            self.assertIn("lab/openstack does not model", json.dumps(answer.json()), path)
        answer = self.cloud.block_storage.post("/volumes", json={"volume": {"size": 1, "colour": "red"}})
        self.assertEqual((501, True), (answer.status_code, 'volume.colour' in answer.text))
        answer = self.cloud.compute.post(f"/servers/{LAB.ready['instance_id']}/action", json={"rebuild": {}})
        self.assertEqual((501, True), (answer.status_code, "action rebuild" in answer.text))
        self.assertIn("lab/openstack does not model", (LAB.folder / "log").read_text())


class CommandLine(Case):
    """The same from the outside: what a person types."""

    def test_identity(self):
        self.assertEqual(LAB.ready["project_id"], LAB.command("token", "issue")["project_id"])
        self.assertIn("cinderv3", {s["Name"] for s in LAB.command("catalog", "list")})
        written = json.loads(pathlib.Path(LAB.ready["appcred_file"]).read_text())
        issued = LAB.command("token", "issue", OS_AUTH_TYPE="v3applicationcredential", OS_USERNAME=None, OS_PASSWORD=None,
                             OS_PROJECT_NAME=None, OS_USER_DOMAIN_NAME=None, OS_PROJECT_DOMAIN_NAME=None,
                             OS_APPLICATION_CREDENTIAL_ID=written["id"], OS_APPLICATION_CREDENTIAL_SECRET=written["secret"])
        self.assertEqual(LAB.ready["project_id"], issued["project_id"])
        self.assertEqual(["lab"], [c["Name"] for c in LAB.command("application", "credential", "list")])

    def test_volumes_and_servers(self):
        volume = LAB.command("volume", "create", "--size", "1", "--type", "lab", "--property", "vm=vm-1", "--bootable", "cli")
        self.addCleanup(self.drop_volume, volume["id"])
        until(lambda: self.cloud.block_storage.get_volume(volume["id"]).status == "available")
        LAB.command("volume", "set", "--property", "disk=2000", "--image-property", "hw_disk_bus=virtio", "--bootable",
                    "cli", parse=False)
        shown = LAB.command("volume", "show", "cli")
        self.assertEqual({"vm": "vm-1", "disk": "2000"}, shown["properties"])
        self.assertEqual({"hw_disk_bus": "virtio"}, shown["volume_image_metadata"])
        self.assertEqual(["cli"], [v["Name"] for v in LAB.command("volume", "list")])
        LAB.command("server", "add", "volume", "conversion-host", "cli")
        until(lambda: self.cloud.block_storage.get_volume(volume["id"]).status == "in-use")
        self.assertTrue((LAB.folder / "by-id" / f"virtio-{volume['id'][:20]}").exists())
        self.assertEqual([volume["id"]], [a["Volume ID"] for a in LAB.command("server", "volume", "list", "conversion-host")])
        LAB.command("server", "remove", "volume", "conversion-host", "cli", parse=False)
        until(lambda: self.cloud.block_storage.get_volume(volume["id"]).status == "available")
        port = LAB.command("port", "create", "--network", "lab-net", "--mac-address", "00:50:56:00:11:22", "--fixed-ip",
                           "ip-address=192.0.2.99", "--security-group", "web", "cli-port")
        self.addCleanup(self.cloud.network.delete_port, port["id"], ignore_missing=True)
        server = LAB.command("server", "create", "--flavor", "m1.tiny", "--volume", "cli", "--port", "cli-port", "--property",
                             "vm=vm-1", "--wait", "cli-server")
        self.assertEqual("ACTIVE", server["status"])
        self.assertEqual({"lab-net": ["192.0.2.99"]}, server["addresses"])
        self.assertEqual({"cli-server", "conversion-host"}, {s["Name"] for s in LAB.command("server", "list")})
        LAB.command("server", "show", "cli-server")
        LAB.command("server", "delete", "--wait", "cli-server", parse=False)
        LAB.command("port", "delete", "cli-port", parse=False)
        LAB.command("volume", "delete", "cli", parse=False)

    def test_lists(self):
        self.assertLessEqual({"lab-net", "shared-net"}, {n["Name"] for n in LAB.command("network", "list")})
        self.assertEqual("192.0.2.0/24", LAB.command("subnet", "show", "lab-subnet")["cidr"])
        self.assertEqual({"default", "web"}, {g["Name"] for g in LAB.command("security", "group", "list")})
        LAB.command("security", "group", "show", "web")
        self.assertLessEqual({"m1.tiny", "m1.small", "m1.medium", "g1.medium"}, {f["Name"] for f in LAB.command("flavor", "list")})
        LAB.command("flavor", "show", "m1.small")
        LAB.command("volume", "type", "list")
        LAB.command("availability", "zone", "list")
        LAB.command("image", "list")
        LAB.command("port", "list")
        LAB.command("keypair", "list")
        LAB.command("limits", "show", "--absolute")
        LAB.command("quota", "show")
        LAB.command("network", "show", "lab-net")
        LAB.command("server", "show", "conversion-host")
        LAB.command("console", "log", "show", "conversion-host", parse=False)


class Files(unittest.TestCase):
    """Without loop devices, and after an end: nothing stays behind."""

    def test_plain_files(self):
        lab = Lab("file")
        try:
            lab.control("POST", "/settings", {"create_delay_ms": 0, "attach_delay_ms": 0})
            with lab.connect() as cloud:
                volume = cloud.block_storage.create_volume(size=1)
                cloud.block_storage.wait_for_status(volume, "available", interval=0.05, wait=20)
                cloud.compute.create_volume_attachment(lab.ready["instance_id"], volume_id=volume.id)
                until(lambda: cloud.block_storage.get_volume(volume.id).status == "in-use")
            link = lab.folder / "by-id" / f"virtio-{volume.id[:20]}"
            about = os.stat(link)
            self.assertTrue(stat.S_ISREG(about.st_mode))
            identity = lab.folder / "identity" / f"{about.st_dev}-{about.st_ino}"
            self.assertEqual(f"serial={volume.id[:20]}\nbytes={1 << 30}\n", identity.read_text())
        finally:
            code, log = lab.stop()
        self.assertEqual(0, code, log)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
