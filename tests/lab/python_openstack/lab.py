"""lab/openstack as its tests drive it, with clients that other people wrote: openstacksdk and the openstack
command line. A call of theirs that fails is a bug in the lab.

Needs VMFERRY_LAB_BIN (vmferry-lab) and, where this interpreter has no openstacksdk,
VMFERRY_TEST_PYTHON (one that has it, with python-openstackclient beside it)."""

import os
import sys

try:
    import openstack
except ImportError:
    other = os.environ.get("VMFERRY_TEST_PYTHON", "")
    if not other or os.path.realpath(other) == os.path.realpath(sys.executable) and "VMFERRY_TEST_AGAIN" in os.environ:
        sys.exit("python_openstack: openstacksdk is missing; set VMFERRY_TEST_PYTHON to an interpreter that has it")
    os.environ["VMFERRY_TEST_AGAIN"] = "1"
    os.execv(other, [other] + sys.argv)

import contextlib
import datetime
import http.client
import ipaddress
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

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
            sys.exit("python_openstack: VMFERRY_LAB_BIN must name the vmferry-lab program")
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
        deadline = time.monotonic() + 120
        while not (self.folder / "ready.json").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit("python_openstack: the lab did not start:\n" + (self.folder / "log").read_text())
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
                              text=True, timeout=300)
        if done.returncode:
            raise AssertionError(f"openstack {' '.join(words)}: {done.stderr}\n{(self.folder / 'log').read_text()}")
        return json.loads(done.stdout) if parse else done.stdout


def until(what, seconds=120):
    """Waits for a condition, which is tried before the deadline is looked at."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.02)


class Case(unittest.TestCase):
    """One lab a class, which leaves nothing behind."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.lab = Lab()
        cls.lab.control("POST", "/settings", {"create_delay_ms": 50, "attach_delay_ms": 150, "server_delay_ms": 200})

    @classmethod
    def tearDownClass(cls):
        code, log = cls.lab.stop()
        if code != 0:
            raise AssertionError(f"the lab ended with {code}:\n{log}")
        left = subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout
        if str(cls.lab.folder) in left:
            raise AssertionError("loop devices left behind:\n" + left)

    def setUp(self):
        self.lab.control("DELETE", "/faults")
        self.lab.control("POST", "/quota", {"gigabytes": 1000, "volumes": 50, "instances": 10, "cores": 20, "ram": 51200, "ports": 500})
        self.lab.control("POST", "/settings", {"token_ttl_s": 3600, "max_disk_devices": -1, "ip_availability": "forbidden"})
        self.cloud = self.lab.connect()
        self.addCleanup(self.cloud.close)
        self.cleanup_volumes = []

    def make_volume(self, size=1, **fields):
        volume = self.cloud.block_storage.create_volume(size=size, **fields)
        self.addCleanup(self.drop_volume, volume.id)
        return self.cloud.block_storage.wait_for_status(volume, "available", interval=0.05, wait=120)

    def drop_volume(self, volume_id):
        with contextlib.suppress(exceptions.NotFoundException):
            self.cloud.block_storage.delete_volume(volume_id, ignore_missing=True)
            until(lambda: not any(v["id"] == volume_id for v in self.lab.control("GET", "/state")["volumes"]))

    def status(self, volume):
        return self.cloud.block_storage.get_volume(volume.id).status

    def make_port(self, **fields):
        port = self.cloud.network.create_port(**{"network_id": self.lab.ready["network_id"], **fields})
        self.addCleanup(self.cloud.network.delete_port, port.id, ignore_missing=True)
        return port

    def make_server(self, volumes, ports, wait="ACTIVE", **fields):
        request = dict(name="web01", flavor_id=self.lab.ready["flavor_id"], networks=[{"port": p.id} for p in ports],
                       block_device_mapping=[
                           {"uuid": v.id, "source_type": "volume", "destination_type": "volume", "boot_index": i,
                            "delete_on_termination": False} for i, v in enumerate(volumes)])
        request.update(fields)
        server = self.cloud.compute.create_server(**request)
        self.addCleanup(self.drop_server, server)
        if wait:
            server = self.cloud.compute.wait_for_server(server, status=wait, interval=0.05, wait=120)
        return server

    def drop_server(self, server):
        self.cloud.compute.delete_server(server.id, ignore_missing=True)
        until(lambda: not any(s["id"] == server.id for s in self.lab.control("GET", "/state")["servers"]))

    def refused(self, kind, status, text, act):
        with self.assertRaises(kind) as caught:
            act()
        self.assertEqual(status, caught.exception.status_code)
        self.assertRegex(str(caught.exception), text)
        return caught.exception
