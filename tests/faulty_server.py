"""Between a controller and a real API server: passes everything on, and refuses what a test wants refused."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Refuse = Callable[[str, str], tuple[int, str] | None]
"""Method and path -> status and reason of a refusal, or None to pass the request on."""


@dataclass
class Faults:
    """What is refused from now on, and what was."""

    refuse: Refuse = field(default=lambda _method, _path: None)
    refused: list[tuple[str, str, int]] = field(default_factory=list)


@contextmanager
def faulty_server(kubeconfig: Path, context: str, faults: Faults) -> Iterator[str]:
    """Serve a context of a kubeconfig on plain HTTP; gives the address."""
    content = json.loads(kubeconfig.read_text(encoding="utf-8"))
    cluster = next(one["cluster"] for one in content["clusters"] if one["name"] == context)
    user = next(one["context"]["user"] for one in content["contexts"] if one["name"] == context)
    token = next(one["user"]["token"] for one in content["users"] if one["name"] == user)
    where = urlsplit(cluster["server"])
    trusted = ssl.create_default_context()
    trusted.check_hostname = False
    trusted.verify_mode = ssl.CERT_NONE

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            said = faults.refuse(self.command, self.path)
            if said is not None:
                faults.refused.append((self.command, self.path, said[0]))
                self._answer(*said)
                return
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "authorization")
            }
            connection = http.client.HTTPSConnection(where.hostname or "", where.port, context=trusted)
            try:
                connection.request(self.command, self.path, body, headers | {"Authorization": f"Bearer {token}"})
                self._forward(connection.getresponse())
            except OSError:
                self.close_connection = True
            finally:
                connection.close()

        def _answer(self, code: int, reason: str) -> None:
            text = json.dumps({"kind": "Status", "code": code, "reason": reason, "message": "a test says no"}).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            self.wfile.flush()

        def _forward(self, answer: http.client.HTTPResponse) -> None:
            """Pass an answer on as it comes: a watch goes on for minutes."""
            self.send_response(answer.status)
            for name in ("Content-Type", "Retry-After"):
                if answer.getheader(name):
                    self.send_header(name, answer.getheader(name) or "")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            while data := answer.read1(65536):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _pass  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
