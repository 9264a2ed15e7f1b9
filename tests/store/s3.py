"""A local S3 server, and a proxy before it that fails as networks and object stores do."""

import http.client
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import boto3
from moto.server import ThreadedMotoServer
from typing_extensions import override

BUCKET = "slides"
CREDENTIALS = {
    "access_key_id": "key",
    "secret_access_key": "secret",
    "region": "us-east-1",
}


def options(endpoint: str, **more: Any) -> dict[str, Any]:
    """What ``FeatureStore.open`` needs to reach the server."""
    patience = {"connect_timeout": "5s", "read_timeout": "1s", "timeout": "60s", "allow_http": True}
    backoff = {"init_backoff": _seconds(0.01), "max_backoff": _seconds(0.1), "base": 2}
    retries = {"max_retries": 12, "retry_timeout": _seconds(60), "backoff": backoff}
    return {
        "config": {**CREDENTIALS, "endpoint": endpoint},
        "client_options": patience,
        "retry_config": retries,
        **more,
    }


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@contextmanager
def serve_s3() -> Iterator[str]:
    """The address of a server with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    ).create_bucket(Bucket=BUCKET)
    try:
        yield endpoint
    finally:
        server.stop()


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on, or fails in one of five ways, by a seeded draw.

    The connection breaks before the request or after it was carried out; 503; a body that is cut;
    silence longer than the client waits.
    """

    daemon_threads = True

    def __init__(self, target: str, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.share = share
        self.draw = random.Random(seed)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.lists = True
        """Whether the bucket may be listed."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self) -> str:
        if self.draw.random() >= self.share:
            return ""
        kind = self.draw.choice(["break", "break after", "503", "503 after", "cut", "silence"])
        self.faults.append(kind)
        return kind


@contextmanager
def failing(target: str, share: float, seed: int = 0) -> Iterator[FaultyProxy]:
    """A proxy that fails a share of the requests."""
    with FaultyProxy(target, share, seed) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        if "list-type" in self.path and not self.server.lists:
            return self._answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        fault = self.server.fault()
        if fault == "break":
            return self._break()
        if fault == "503":
            return self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
        if fault == "silence":
            time.sleep(1.5)
            return self._break()
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        content = response.read()
        if fault == "break after":
            return self._break()
        if fault == "503 after":
            return self._answer(503, {}, b"<Error><Code>InternalError</Code></Error>")
        length = response.headers.get("Content-Length", str(len(content)))
        if fault == "cut":
            content = content[: len(content) // 2]
        self._answer(response.status, {**response.headers, "Content-Length": length}, content)
        if fault == "cut":
            self._break()
        return None

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        headers.setdefault("Content-Length", str(len(content)))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _break(self) -> None:
        self.close_connection = True
        self.connection.close()

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""
