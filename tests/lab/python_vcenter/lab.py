# Starts one vmferry-lab vcenter in a temporary folder and ends it. Knows the
# server's flags and its control socket, nothing of the vSphere API.
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time

PASSWORD = "py test & <password>"


class ControlError(Exception):
    pass


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("control", timeout=120)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Lab:
    def __init__(self, *flags, esxi=False):
        binary = os.environ.get("VMFERRY_LAB_BIN")
        if not binary:
            raise RuntimeError("VMFERRY_LAB_BIN must name the vmferry-lab program")
        self.esxi = esxi
        self.username = "root" if esxi else "administrator@vsphere.local"
        self.password = PASSWORD
        self.restricted = "vmferry" if esxi else "vmferry@vsphere.local"
        self.dir = tempfile.mkdtemp(prefix="vmferry-vcenter-")
        self.process = None
        try:
            self._start(binary, flags)
        except BaseException:
            self.stop()
            raise

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def _start(self, binary, flags):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-keyout", self.path("key.pem"), "-out", self.path("ca.pem"), "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(os.open(self.path("password"), os.O_CREAT | os.O_WRONLY, 0o600), "w") as out:
            out.write(self.password + "\n")
        command = [binary, "vcenter", "--dir", self.path("datastore"), "--cert", self.path("ca.pem"),
                   "--key", self.path("key.pem"), "--password-file", self.path("password"),
                   "--restricted-username", self.restricted, "--restricted-password-file", self.path("password"),
                   "--control-socket", self.path("control.sock"), "--ready-file", self.path("ready")]
        if self.esxi:
            command.append("--esxi")
        self.log = open(self.path("log"), "w+")
        self.process = subprocess.Popen(command + list(flags), stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while not os.path.exists(self.path("ready")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError("vmferry-lab vcenter did not start: " + self.log.read())
            time.sleep(0.05)
        with open(self.path("ready")) as ready:
            answer = json.load(ready)
        host, port = answer["endpoint"].rsplit(":", 1)
        self.host, self.port, self.vm_path = host, int(port), answer["vm_path"]
        self.tls = ssl.create_default_context(cafile=self.path("ca.pem"))

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def control(self, method, path, body=None):
        connection = _UnixConnection(self.path("control.sock"))
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ControlError("%s %s: %s" % (method, path, answer.get("error")))
        return answer

    def settings(self, **values):
        return self.control("POST", "/settings", values)

    def fault(self, **rule):
        return self.control("POST", "/faults", rule)

    def frozen(self, snapshot):
        """Paths of the frozen bytes of one snapshot, by device key."""
        for entry in self.control("GET", "/vms/web01/frozen"):
            if entry["snapshot"] == snapshot:
                return {disk["key"]: disk["path"] for disk in entry["disks"]}
        raise KeyError(snapshot)

    def folder(self, name, headers=None, method="GET", query=None):
        """One request for a datastore file: status, headers, bytes."""
        if query is None:
            query = "dcPath=%s&dsName=LocalDS_0" % ("ha-datacenter" if self.esxi else "DC0")
        connection = http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=60)
        try:
            connection.request(method, "/folder/%s?%s" % (name, query), headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()
