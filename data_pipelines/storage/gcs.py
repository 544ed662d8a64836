"""Objects of Google Cloud Storage, read with gcsfs (requirements-cloud.txt).

pyarrow's own client is not used. In pyarrow 26 it starts to download the whole object at the first read of a part, and holds Python's global
interpreter lock until the store answers, so that one read blocks all other reading threads.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import gcsfs.core
from fsspec.asyn import sync

from data_pipelines.storage.interface import ANSWER_SECONDS, CONNECT_SECONDS, Found, Opened


class _Client(gcsfs.core.GCSFileSystem):  # type: ignore[misc]
    """Sends each request once, without gcsfs's retries; objects.attempt retries."""

    _request = gcsfs.core.GCSFileSystem._request.__wrapped__


class GCS:
    """A bucket. Its methods raise OSError, including FileNotFoundError."""

    def __init__(self, bucket: str):
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        self._client = _Client(
            token="anon" if emulator else None,
            endpoint_url=emulator,
            requests_timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS),
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def open(self, path: str) -> Opened:
        return Opened(self.info(path).size, lambda start, length: self._call(self._client._cat_file, path, start, start + length))

    def info(self, path: str) -> Found:
        return _found(path, self._call(self._client._get_object, path))

    def files(self, folder: str, recursive: bool) -> list[Found]:
        found = self._call(self._client._find, folder, maxdepth=None if recursive else 1, detail=True)
        return [_found(name, info) for name, info in found.items()]

    def _call(self, method: Callable[..., Awaitable[Any]], *arguments: Any, **more: Any) -> Any:
        try:
            return sync(self._client.loop, method, *arguments, **more)
        except OSError:
            raise
        except Exception as error:  # gcsfs, aiohttp, requests and google.auth raise exceptions of their own
            code = getattr(error, "code", None)
            text = f"HTTP status {code}: {error}" if code else f"{type(error).__name__}: {error}"
            raise OSError(text) from error


def _found(name: str, info: dict[str, Any]) -> Found:
    return Found(name, int(info["size"]), int(info.get("generation", 0)))  # a generation is a time stamp that changes with the content
