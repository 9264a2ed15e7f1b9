"""Bags from a local S3 server against plain requests: `python -m benchmarks.store_objects`."""

import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np

from benchmarks.program import run
from benchmarks.result import Result, compare
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key, feature_path

FEATURES = feature_path("resnet18", "layer4")
BUCKET = "slides"
_PORT = 5123
_SERVER = f"""
import boto3, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", {_PORT}, verbose=False)
server.start()
boto3.client("s3", endpoint_url="http://127.0.0.1:{_PORT}", aws_access_key_id="key",
    aws_secret_access_key="secret", region_name="us-east-1").create_bucket(
    Bucket="{BUCKET}", ACL="public-read-write")
print("ready", flush=True)
time.sleep(1e6)
"""


def measure(rows: int = 20_000, width: int = 1024, rounds: int = 7) -> list[Result]:
    """Reading a bag against a plain ranged GET, rows against the bag, writing against plain PUTs.

    Args:
        rows: Rows of the bag.
        width: Features of a row.
        rounds: Rounds.
    """
    with tempfile.TemporaryDirectory() as cache, local_s3() as endpoint:
        os.environ.update(HISTOTRANSFER_CACHE=cache, HISTOTRANSFER_CACHE_GB="0")
        store = FeatureStore.open_or_create(f"s3://{BUCKET}/s.zarr", None)
        values = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float16)
        with store.writing():
            slide = store.add_slide("bag", None, rows)
            slide.write(FEATURES, values, {})
        chosen = np.random.default_rng(0).choice(rows, min(512, rows // 4), replace=False)
        plain = _Plain(endpoint, f"/{BUCKET}/s.zarr/{encode_key('bag')}/{FEATURES}/c/0/0")
        content = values.tobytes()

        def write(number: int) -> None:
            with store.writing():
                name = f"bag {time.monotonic_ns()}"
                store.add_slide(name, None, rows).write(FEATURES, values, {})

        return [
            compare(
                f"bag of {rows} x {width} from S3 vs a plain ranged GET",
                1.2,
                lambda _: slide.read(FEATURES),
                lambda _: np.frombuffer(plain.get(len(content)), np.float16),
                rounds,
            ),
            compare(
                f"{len(chosen)} random rows from S3 vs the whole bag",
                1.0,
                lambda _: slide.read(FEATURES, chosen),
                lambda _: slide.read(FEATURES),
                rounds,
            ),
            compare(
                f"writing a bag of {rows} x {width} to S3 vs a plain PUT",
                1.2,
                write,
                lambda number: plain.put(content, number),
                rounds,
            ),
        ]


class _Plain:
    """Unsigned requests of the standard library."""

    def __init__(self, endpoint: str, path: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
        self.path = path

    def get(self, length: int) -> bytes:
        self.connection.request("GET", self.path, headers={"Range": f"bytes=0-{length - 1}"})
        content = self.connection.getresponse().read()
        if len(content) != length:
            raise RuntimeError(f"the server gave {content[:200]!r}")
        return content

    def put(self, content: bytes, number: int) -> None:
        self.connection.request("PUT", f"{self.path}-{number}", content)
        self.connection.getresponse().read()


@contextmanager
def local_s3() -> Iterator[str]:
    """A server in a process of its own."""
    command, quiet = [sys.executable, "-c", _SERVER], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet) as server:
        try:
            if server.stdout is None or server.stdout.readline() != b"ready\n":
                raise RuntimeError("the S3 server did not start")
            endpoint = f"http://127.0.0.1:{_PORT}"
            os.environ.update(
                AWS_ENDPOINT_URL=endpoint,
                AWS_ACCESS_KEY_ID="key",
                AWS_SECRET_ACCESS_KEY="secret",
                AWS_REGION="us-east-1",
            )
            yield endpoint
        finally:
            server.kill()


if __name__ == "__main__":
    run("store_objects", measure, {"rows": 400, "width": 64, "rounds": 2})
