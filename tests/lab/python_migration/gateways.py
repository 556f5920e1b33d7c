"""What may stand between vmferry and a cloud, on loopback: a forward proxy, and a gatehouse that demands a client certificate and
has the services' endpoints below a path of its own. Standard library, and the openssl command for certificates."""

import contextlib
import http.client
import http.server
import re
import select
import socket
import ssl
import subprocess
import threading

NAME = "cloud.vmferry.invalid"  # RFC 2606: resolves nowhere, so only the proxy can reach it
BELOW = "/behind/the/gate"
OF_ONE_CONNECTION = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}


class Served:
    """An HTTP server in the background."""

    def __init__(self, handler):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.owner = self
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class ForwardProxy(Served):
    """Knows CONNECT only. names: HOST -> address, as the proxy's own name server has them; asked: the HOST:PORT it was asked for."""

    def __init__(self, names):
        self.names, self.asked = names, []
        super().__init__(Tunnel)
        self.url = f"http://127.0.0.1:{self.port}"


class Tunnel(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self):
        proxy = self.server.owner
        proxy.asked.append(self.path)
        host, port = self.path.rsplit(":", 1)
        try:
            other = socket.create_connection((proxy.names.get(host, host), int(port)), timeout=60)
            other.settimeout(None)  # how long who waits for whom is nothing that a proxy knows
        except OSError:
            self.send_error(502)
            return
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with other, contextlib.suppress(OSError):
            while True:
                for one, another in ((self.connection, other), (other, self.connection)):
                    if one in select.select([self.connection, other], [], [])[0]:
                        data = one.recv(1 << 16)
                        if not data:
                            return
                        another.sendall(data)

    def log_message(self, *words):
        pass


class Gatehouse(Served):
    """Passes on what comes with its client certificate, and speaks of the front's address as of its own."""

    def __init__(self, folder, front, front_ca):
        self.front = front
        self.passed = 0
        self.certificate, self.key = self_signed(folder, "gatehouse", NAME)
        self.client_certificate, self.client_key = self_signed(folder, "client", "vmferry")
        self.to_front = ssl.create_default_context(cafile=front_ca)
        self.demands = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.demands.load_cert_chain(self.certificate, self.key)
        self.demands.load_verify_locations(self.client_certificate)
        self.demands.verify_mode = ssl.CERT_REQUIRED
        super().__init__(Gate)
        self.url = f"https://{NAME}:{self.port}{BELOW}"

    def clouds_yaml(self, path, original, certificate=True):
        """The lab's clouds.yaml, for whoever comes this way."""
        trust = f"    cacert: {self.certificate}"
        if certificate:
            trust += f"\n    cert: {self.client_certificate}\n    key: {self.client_key}"
        text = re.sub(r"(?m)^    cacert: .*$", trust, original.replace(self.front, self.url))
        path.write_text(text)
        return path


class Gate(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        self.request.settimeout(600)
        self.request = self.server.owner.demands.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
        super().setup()

    def handle(self):
        with contextlib.suppress(OSError):  # a client without the certificate, or one that has gone
            self.request.do_handshake()
            super().handle()

    def pass_on(self):
        gate = self.server.owner
        gate.passed += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.path.startswith(BELOW + "/"):
            self.send_error(404)
            return
        host, port = gate.front.removeprefix("https://").split(":")
        front = http.client.HTTPSConnection(host, int(port), context=gate.to_front, timeout=600)
        front.request(self.command, self.path.removeprefix(BELOW), body or None,
                      {k: v for k, v in self.headers.items() if k.lower() not in OF_ONE_CONNECTION})
        answer = front.getresponse()
        said = answer.read().replace(gate.front.encode(), gate.url.encode())
        front.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in OF_ONE_CONNECTION:
                self.send_header(name, value.replace(gate.front, gate.url))
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def log_message(self, *words):
        pass


def self_signed(folder, stem, name):
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)
    return certificate, key
