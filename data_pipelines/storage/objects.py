"""Reads objects of stores with retries, and turns the clients' errors into readable messages.

Credentials, region and endpoint come from the clients' own settings: for S3 AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL or
the machine's role; for Google Cloud GOOGLE_APPLICATION_CREDENTIALS or the machine's service account. A public bucket needs no credentials.
"""

from __future__ import annotations

import functools
import random
import re
import time
from collections.abc import Callable
from glob import has_magic

from fsspec.utils import glob_translate

from data_pipelines.storage.interface import Found, Opened, StorageError, Store

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5  # doubled after each failure

_MISSING = re.compile(r"NOT_FOUND|NO_SUCH_|HTTP status 404|does not exist|Not found", re.IGNORECASE)
_REFUSED = re.compile(
    r"ACCESS_DENIED|UNAUTHORIZED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|MISSING_AUTHENTICATION"
    r"|HTTP status 40[13]|Forbidden|RefreshError|DefaultCredentialsError",
    re.IGNORECASE,
)
_CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
}

pause = time.sleep  # called between attempts; tests replace it


class ObjectFile:
    """An object, read by byte ranges."""

    def __init__(self, address: str):
        self.address = address
        self._store, self._path = locate(address)
        self._opened: Opened = attempt(address, lambda: self._store.open(self._path))

    @property
    def size(self) -> int:
        return self._opened.size

    @functools.cached_property
    def modified(self) -> int:
        return attempt(self.address, lambda: self._store.info(self._path)).modified

    def read(self, start: int, length: int) -> bytes:
        if start + length > self.size:
            early = start + length - self.size
            raise StorageError("unreadable_file", f"{self.address} ends at byte {self.size:,}, {early:,} bytes early: upload it again")

        def exactly() -> bytes:
            data = self._opened.read(start, length)
            if len(data) != length:
                raise OSError(f"{len(data):,} of {length:,} bytes came")
            return data

        return attempt(self.address, exactly) if length else b""


def matching(pattern: str) -> list[str]:
    """Returns the sorted addresses of the objects that match a glob pattern. Raises StorageError."""
    scheme = pattern.partition("://")[0]
    store, path = locate(pattern)
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if has_magic(part))
    if first == 0:
        raise StorageError("missing_file", f"{pattern}: a bucket has no wildcards: name it")
    recursive = first < len(parts) - 1 or "**" in parts[-1]
    wanted = re.compile(glob_translate(path))
    found: list[Found] = attempt(pattern, lambda: store.files("/".join(parts[:first]), recursive))
    return sorted(f"{scheme}://{each.path}" for each in found if wanted.match(each.path))


def objects_in(folder: str) -> list[Found]:
    """Returns the objects in a folder and its subfolders, with names relative to the folder. Raises StorageError."""
    store, path = locate(folder.rstrip("/"))
    return [each._replace(path=each.path.removeprefix(f"{path}/")) for each in attempt(folder, lambda: store.files(path, True))]


def attempt[T](address: str, action: Callable[[], T]) -> T:
    """Returns the result of `action`, retrying up to ATTEMPTS times in all, with growing pauses, if the store fails or times out.

    Raises StorageError; at once, without a retry, if the object is missing or access is refused.
    """
    for number in range(ATTEMPTS):
        if number:
            pause(FIRST_PAUSE_SECONDS * 2 ** (number - 1) * random.uniform(0.5, 1.5))
        try:
            return action()
        except OSError as error:
            text = _short(str(error) or type(error).__name__)
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


def _short(text: str) -> str:
    return " ".join(text.split())[:300]


def locate(address: str) -> tuple[Store, str]:
    """Returns the client of an address's bucket, and the path in the form bucket/key. Raises StorageError."""
    scheme, _, path = address.partition("://")
    bucket = path.partition("/")[0]
    if not bucket:
        raise StorageError("missing_file", f"{address} names no bucket: write {scheme}://BUCKET/KEY")
    return client(scheme, bucket), path


@functools.lru_cache(64)
def client(scheme: str, bucket: str) -> Store:
    """Returns the client of a bucket, one for each bucket. Raises StorageError."""
    if scheme == "s3":
        from data_pipelines.storage.s3 import S3

        return attempt(f"s3://{bucket}", lambda: S3(bucket))
    try:
        from data_pipelines.storage.gcs import GCS
    except ImportError as error:
        raise StorageError(
            "unreadable_file", f"gs://{bucket} is read with gcsfs, which is not installed ({error}): pip install -r requirements-cloud.txt"
        ) from error
    return attempt(f"gs://{bucket}", lambda: GCS(bucket))
