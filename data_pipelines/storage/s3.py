"""Objects of S3 and of stores with an S3-compatible protocol, read with pyarrow's client: it needs no extra package, and releases Python's
global interpreter lock while it waits."""

from __future__ import annotations

import os
from typing import Any

from pyarrow import fs

from data_pipelines.storage.interface import ANSWER_SECONDS, CONNECT_SECONDS, Found, Opened


class S3:
    """A bucket whose requests are sent once, without retries. Its methods raise OSError, including FileNotFoundError."""

    def __init__(self, bucket: str):
        self._client = s3_client(bucket, attempts=1)

    def open(self, path: str) -> Opened:
        file = self._client.open_input_file(path)
        return Opened(file.size(), lambda start, length: file.read_at(length, start))

    def info(self, path: str) -> Found:
        info = self._client.get_file_info(path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(path)
        return _found(info)

    def files(self, folder: str, recursive: bool) -> list[Found]:
        selector = fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
        return [_found(info) for info in self._client.get_file_info(selector) if info.type == fs.FileType.File]


def s3_client(bucket: str, attempts: int) -> fs.S3FileSystem:
    """Returns a client for a bucket, set by the environment variables of Amazon's tools; each request is sent up to `attempts` times."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def _found(info: Any) -> Found:
    return Found(info.path, info.size, int(info.mtime_ns or 0))
