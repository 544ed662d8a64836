"""Object stores on the loopback interface: a real S3-compatible server, and one that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import http.server
import logging
import threading
from collections import Counter
from collections.abc import Iterator

import boto3
from moto.server import ThreadedMotoServer

from data_pipelines.storage import objects

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


class Store:
    """The client's side of a server: uploads."""

    def __init__(self, endpoint: str):
        self.endpoint = endpoint
        self._client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
        )
        self._client.create_bucket(Bucket="bucket")

    def upload(self, key: str, content: bytes) -> str:
        self._client.put_object(Bucket="bucket", Key=key, Body=content)
        return f"s3://bucket/{key}"


@contextlib.contextmanager
def s3_server() -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Store(f"http://{host}:{port}")
    finally:
        server.stop()


class Misbehaving:
    """A server whose answers follow the key: KIND/NAME, where NAME counts apart.

    Kinds: a status code for every request; "getSTATUS" for requests of content alone; "onceSTATUS" for the first one alone; "half" (the
    connection closes after half of the content), "oncehalf", "slow" (no content until `release` is set).
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # by key and method
        self.release = threading.Event()
        self.content = bytes(range(250)) * 4
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                store.answer(self, True)

            def do_GET(self) -> None:
                store.answer(self, False)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: http.server.BaseHTTPRequestHandler, head: bool) -> None:
        key = request.path.partition("?")[0].removeprefix("/bucket/")
        kind = key.partition("/")[0]
        self.requests[key, request.command] += 1
        first = self.requests[key, "GET"] == 1
        if kind.startswith("once"):
            kind = kind.replace("once", "get") if first and kind != "oncehalf" else "half" if first and not head else "fine"
        status = kind.removeprefix("get") if kind.startswith("get") and not head else kind
        if status.isdigit():
            request.send_response(int(status))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if kind == "slow" and not head:
            self.release.wait()
        start, end = 0, len(self.content) - 1
        if wanted := request.headers.get("Range"):
            start, end = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        body = self.content[start : end + 1]
        request.send_response(206 if wanted else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Range", f"bytes {start}-{end}/{len(self.content)}")
        request.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        request.end_headers()
        if not head:
            with contextlib.suppress(ConnectionError):
                request.wfile.write(body[: len(body) // 2] if kind == "half" else body)
            request.close_connection = kind == "half"


@contextlib.contextmanager
def client_of(endpoint: str, monkeypatch) -> Iterator[None]:
    """Addresses s3:// lead to a server; pauses between attempts take no time."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "pause", lambda seconds: None)
    objects.client.cache_clear()
    yield
    objects.client.cache_clear()
