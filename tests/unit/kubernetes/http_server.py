"""An API server that says what a test wants, on 127.0.0.1, for refusals that a real one gives only under load."""

from __future__ import annotations

import json
import threading
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Script:
    """Answers in order, each (status, headers, body); the last one again and again. Requests are kept."""

    def __init__(self, *answers):
        self.answers = deque(answers)
        self.requests = []
        self.logins = []

    def answer(self, method, path, body):
        self.requests.append((method, path, body))
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]


def status(code, reason, message="no", causes=(), retry_after=None):
    """Answer as Kubernetes refuses."""
    details = {"causes": [{"reason": cause} for cause in causes]}
    body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return code, {} if retry_after is None else {"Retry-After": str(retry_after)}, body


@contextmanager
def scripted_server(script):
    """Serve; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _answer(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            script.logins.append(self.headers.get("Authorization", ""))
            code, headers, said = script.answer(self.command, self.path, body)
            text = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            kind = "text/plain" if isinstance(said, str) else "application/json"
            self.send_response(code)
            for name, value in {"Content-Type": kind, "Content-Length": len(text), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig(path, servers):
    """Write a kubeconfig with a context a server: name -> address."""
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": name, "cluster": {"server": url}} for name, url in servers.items()],
                "users": [{"name": "me", "user": {"token": "secret-token"}}],
                "contexts": [{"name": name, "context": {"cluster": name, "user": "me"}} for name in servers],
            }
        ),
        encoding="utf-8",
    )
    return path
