"""Object stores on the loopback interface: a real S3-compatible server, and one that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping

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
    """A server of S3's and Google's protocols whose answers follow the key in the bucket `bucket`: KIND/NAME, where NAME counts apart.

    Kinds: a status code for every request; "getSTATUS" for requests of content alone; "onceSTATUS" for the first of these alone; "half" (the
    connection closes after half of the content), "oncehalf", "slow" (no content until `release` is set).
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # by key, and "about" or "content"
        self.release = threading.Event()
        self.content = bytes(range(250)) * 4
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                store.answer(self)

            def do_GET(self) -> None:
                store.answer(self)

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

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        url = urllib.parse.urlparse(request.path)
        query = urllib.parse.parse_qs(url.query)
        google = "/storage/v1/" in url.path
        key = urllib.parse.unquote(url.path.partition("/b/bucket/o/" if google else "/bucket/")[2])
        key = key or query.get("prefix", [""])[0]
        about = request.command == "HEAD" or (google and "alt" not in query)
        self.requests[key, "about" if about else "content"] += 1
        status, kind = self._kind(key, about)
        if status:
            _send(request, status, b"")
        elif google and about:
            entry = {"kind": "storage#object", "bucket": "bucket", "name": key, "size": str(len(self.content)), "generation": "7"}
            _send(request, 200, json.dumps(entry if "prefix" not in query else {"items": [entry | {"name": f"{key}0"}]}).encode())
        else:
            if kind == "slow" and not about:
                self.release.wait()
            self._send_content(request, about, kind == "half")

    def _kind(self, key: str, about: bool) -> tuple[int, str]:
        """The status of a request that fails, else 0; and how its content is sent."""
        kind = key.partition("/")[0]
        if kind.startswith("once"):
            kind = kind.removeprefix("once") if not about and self.requests[key, "content"] == 1 else "fine"
        elif kind.startswith("get"):
            kind = "fine" if about else kind.removeprefix("get")
        return (int(kind), "") if kind.isdigit() else (0, kind)

    def _send_content(self, request: http.server.BaseHTTPRequestHandler, head: bool, half: bool) -> None:
        start, end = 0, len(self.content) - 1
        if wanted := request.headers.get("Range"):
            start, end = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        more = {"Content-Range": f"bytes {start}-{end}/{len(self.content)}", "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
        _send(request, 206 if wanted else 200, self.content[start : end + 1], head, half, more)


def _send(
    request: http.server.BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    head: bool = False,
    half: bool = False,
    more: Mapping[str, str] | None = None,
) -> None:
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | dict(more or {})).items():
        request.send_header(name, value)
    request.end_headers()
    if not head:
        with contextlib.suppress(ConnectionError):
            request.wfile.write(body[: len(body) // 2] if half else body)
        request.close_connection = half


@contextlib.contextmanager
def client_of(endpoint: str, monkeypatch) -> Iterator[None]:
    """Addresses of stores lead to a server; pauses between attempts take no time."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint, "STORAGE_EMULATOR_HOST": endpoint}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "pause", lambda seconds: None)
    objects.client.cache_clear()
    yield
    objects.client.cache_clear()
