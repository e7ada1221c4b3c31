"""The real nginx with the templates of deploy/nginx, and a name server that it asks.

    with NameServer() as names, Nginx(folder, names, {"EMEND_GATEWAYS": f"gateway.test:{port}"}) as nginx:
        names.addresses["gateway.test"] = ["127.0.0.2", "127.0.0.3"]
        nginx.client().get("/api/models")

What the image's entrypoint does (variables into templates, the settings of `15-names.envsh`) is done here in the same
way; every variable has the default of deploy/nginx/nginx.env.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.processes import free_port, stop_group, wait_for_http

SOURCE = Path(__file__).parents[2] / "deploy" / "nginx"
BINARY = os.environ.get("TEST_NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
NAMES = ("gateway.test", "viewer.test", "pages.test", "mlflow.test", "grafana.test", "objects.test")
PUBLIC_NAME = "emend.test"
ADMIN, PASSWORD = "admin", "only for tests"


def defaults() -> dict[str, str]:
    """Name to value, of deploy/nginx/nginx.env."""
    lines = (SOURCE / "nginx.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def render(folder: Path, environment: Mapping[str, str], *, tls: bool = False) -> None:
    """The templates as the image's entrypoint fills them in: `${NAME}` of what is set, everything else untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    templates = {path.name: path for path in (SOURCE / "templates").glob("*.template")}
    if tls:
        templates["server.conf.template"] = SOURCE / "tls.conf.template"
    for name, path in templates.items():
        text = re.sub(r"\$\{(\w+)\}", lambda found: environment.get(found[1], found[0]), path.read_text())
        (folder / name.removesuffix(".template")).write_text(text)


def names_form() -> str:
    """`kept` or `asked`, as the entrypoint finds it out."""
    assert BINARY is not None, "nginx is not installed: deploy/test-packages.sh installs it"
    script = '. "$0"/15-names.envsh && printf %s "$EMEND_NGINX_NAMES"'
    path = f"{Path(BINARY).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "NGINX_ENVSUBST_OUTPUT_DIR": "/tmp"}
    found = subprocess.run(
        ["sh", "-c", script, str(SOURCE)], env=environment, capture_output=True, text=True, check=True
    )
    return found.stdout


def password_hash(password: str) -> str:
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


class Nginx:
    """Behind it: `gateway.test` and so on, wherever `names` says those are. changes: other values for its variables."""

    def __init__(
        self, folder: Path, names: NameServer, changes: Mapping[str, str], *, tls: bool = False
    ) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "nginx.log"
        self._folder, self._tls = folder, tls
        self.environment = {
            **defaults(),
            "EMEND_NGINX_NAMES": names_form(),
            "EMEND_NGINX_RESOLVER": f"127.0.0.1:{names.port}",
            "EMEND_PUBLIC_HOST": f"{PUBLIC_NAME} 127.0.0.1",
            "EMEND_PUBLIC_URL": f"http://{PUBLIC_NAME}",
            "EMEND_NGINX_PORT": str(self.port),
            "EMEND_NGINX_TLS_PORT": str(self.tls_port),
            "EMEND_ADMIN_USER": ADMIN,
            "EMEND_ADMIN_HASH": password_hash(PASSWORD),
            **changes,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        render(self._folder, self.environment, tls=self._tls)
        assert BINARY is not None
        command = [BINARY, "-p", str(self._folder), "-c", "nginx.conf", "-e", "stderr"]
        command += ["-g", "daemon off;" + ("user root;" if os.geteuid() == 0 else "")]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_for_http(f"{self.url}/healthz", self._process, self.log, 10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        stop_group(self._process)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def reload(self) -> None:
        """As for a new certificate; takes effect a moment later."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGHUP)

    def client(self, *, admin: bool = False, address: str = "127.0.0.1", **headers: str) -> httpx.Client:
        """admin: with the password. address: where it comes from."""
        return httpx.Client(
            transport=httpx.HTTPTransport(local_address=address),
            base_url=self.url,
            headers={"Host": PUBLIC_NAME, **headers},
            auth=(ADMIN, PASSWORD) if admin else None,
            timeout=30,
        )

    def logged(self) -> list[dict[str, Any]]:
        """The access log so far; it is written once a second."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


class NameServer:
    """Answers address questions (A) over UDP from `addresses`; what is not in it does not exist."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {name: ["127.0.0.1"] for name in NAMES}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                asked, who = self._socket.recvfrom(512)
            except OSError:  # closed
                return
            if not asked:
                return
            self._socket.sendto(self._answer(asked), who)

    def _answer(self, asked: bytes) -> bytes:
        """RFC 1035, 4.1: header, the question again, one A record of 1 s an address."""
        labels, at = [], 12
        while asked[at]:
            labels.append(asked[at + 1 : at + 1 + asked[at]].decode())
            at += 1 + asked[at]
        question = asked[12 : at + 5]
        found = self.addresses.get(".".join(labels))
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
            for address in found or []
        )
        flags = 0x8180 if found is not None else 0x8183  # "there is no such name"
        return asked[:2] + struct.pack(">HHHHH", flags, 1, len(found or []), 0, 0) + question + records
