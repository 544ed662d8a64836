"""Objects of S3 and Google Cloud Storage, read with the clients that pyarrow brings: retries, time limits, and errors as sentences.

Credentials, region and endpoint are those of the clients' own settings: AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, the
role of the machine; GOOGLE_APPLICATION_CREDENTIALS, the service account of the machine. A bucket that is public needs none.
"""

from __future__ import annotations

import datetime
import functools
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any

from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from data_pipelines.storage.interface import StorageError

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5  # doubled after each failure
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0  # without a byte

_MISSING = re.compile(r"NOT_FOUND|NO_SUCH_|HTTP status 404|does not exist|Not found", re.IGNORECASE)
_REFUSED = re.compile(
    r"ACCESS_DENIED|PERMISSION_DENIED|UNAUTHENTICATED|UNAUTHORIZED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN"
    r"|MISSING_AUTHENTICATION|HTTP status 40[13]|Permission denied",
    re.IGNORECASE,
)
_CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
}

pause = time.sleep  # between attempts; tests replace it


class ObjectFile:
    """An object, read by ranges."""

    def __init__(self, address: str):
        self.address = address
        store, path = locate(address)
        self._file: Any = attempt(address, lambda: store.open_input_file(path))
        self.size = self._file.size()
        self._store, self._path = store, path

    @functools.cached_property
    def modified(self) -> int:
        info = attempt(self.address, lambda: self._store.get_file_info(self._path))
        return int(info.mtime_ns or 0)

    def read(self, start: int, length: int) -> bytes:
        if start + length > self.size:
            early = start + length - self.size
            raise StorageError("unreadable_file", f"{self.address} ends at byte {self.size:,}, {early:,} bytes early: upload it again")

        def exactly() -> bytes:
            data = self._file.read_at(length, start)
            if len(data) != length:
                raise OSError(f"{len(data):,} of {length:,} bytes came")
            return data

        return attempt(self.address, exactly) if length else b""


def exists(address: str) -> bool:
    """Whether there is an object of this name. Raises StorageError where the store does not say."""
    store, path = locate(address)
    return bool(attempt(address, lambda: store.get_file_info(path)).type == fs.FileType.File)


def matching(pattern: str) -> list[str]:
    """The addresses of the objects that a glob pattern names, sorted. Raises StorageError."""
    store, path = locate(pattern)
    scheme = pattern.partition("://")[0]
    wrapped = ArrowFSWrapper(store, skip_instance_cache=True)
    found = attempt(pattern, lambda: wrapped.glob(path, detail=True))
    return sorted(f"{scheme}://{name}" for name, info in found.items() if info["type"] == "file")


def objects_in(folder: str) -> list[tuple[str, int, int]]:
    """(name relative to the folder, bytes, nanoseconds of the last change) of the objects in it. Raises StorageError."""
    store, path = locate(folder.rstrip("/"))
    infos = attempt(folder, lambda: store.get_file_info(fs.FileSelector(path, recursive=True)))
    files = [info for info in infos if info.type == fs.FileType.File]
    return [(info.path.removeprefix(f"{path}/"), info.size, int(info.mtime_ns or 0)) for info in files]


def attempt[T](address: str, action: Callable[[], T]) -> T:
    """What an action returns, tried again after growing pauses where the store fails or is slow. Raises StorageError."""
    for number in range(ATTEMPTS):
        if number:
            pause(FIRST_PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.5, 1.5))
        try:
            return action()
        except OSError as error:
            text = " ".join(str(error).split())
            if isinstance(error, FileNotFoundError) or _MISSING.search(text):
                raise StorageError("missing_file", f"{address}: the store has no such object; check bucket and name") from error
            if _REFUSED.search(text):
                scheme = address.partition("://")[0]
                advice = f"give credentials that may read it ({_CREDENTIALS[scheme]})"
                raise StorageError("unreadable_file", f"{address}: the store refuses access ({text}): {advice}") from error
            last = text, error
    text, cause = last
    raise StorageError(
        "unreadable_file", f"{address}: the store failed {ATTEMPTS} times ({text}): it may be overloaded or unreachable; start again later"
    ) from cause


def locate(address: str) -> tuple[Any, str]:
    """The client of an address's bucket, and the path that it takes: bucket/key. Raises StorageError."""
    scheme, _, path = address.partition("://")
    bucket = path.partition("/")[0]
    if not bucket:
        raise StorageError("missing_file", f"{address} names no bucket: write {scheme}://BUCKET/KEY")
    return client(scheme, bucket), path


@functools.lru_cache(64)
def client(scheme: str, bucket: str) -> Any:
    """A client that tries each request once: `attempt` repeats it."""
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=ANSWER_SECONDS))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = attempt(f"s3://{bucket}", lambda: fs.resolve_s3_region(bucket))
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
