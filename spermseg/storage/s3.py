"""S3 and servers that speak it, through boto3: listings with etags, ranged and conditional requests."""

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import boto3
import pyarrow.fs as pafs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spermseg.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
)

# pyarrow's uploads fail with HTTP 411 on several servers (Ceph, rclone) unless checksums are sent only when required.
os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")

CLIENT_CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 6},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=32,
)
MISSING = ("404", "NoSuchKey", "NotFound")
CHANGED = ("412", "PreconditionFailed", "ConditionalRequestConflict")


@lru_cache(maxsize=8)
def _client(endpoint_url: str | None) -> Any:
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=CLIENT_CONFIG)


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _error(path: str, error: ClientError | BotoCoreError) -> StorageError:
    if isinstance(error, BotoCoreError):
        return StorageError(f"s3://{path}: {error}")
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in MISSING:
        return ObjectMissingError(f"s3://{path} is not there")
    if code in CHANGED:
        return ObjectChangedError(f"s3://{path} changed since planned")
    if code == "NoSuchBucket":
        return StorageError(f"s3://{path}: there is no such bucket")
    if code in ("403", "AccessDenied"):
        return StorageError(f"s3://{path}: access denied; the credentials in use may not do this")
    return StorageError(f"s3://{path}: {code} {error.response.get('Error', {}).get('Message', '')}".strip())


class S3Backend:
    """Objects on S3; `path` is `bucket/key`."""

    def __init__(self, endpoint_url: str | None) -> None:
        self.endpoint_url = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if self.endpoint_url and urlsplit(self.endpoint_url).scheme not in ("http", "https"):
            raise ConfigError(f"got the endpoint {self.endpoint_url!r}; give http://host:port or https://host")

    @property
    def _s3(self) -> Any:
        return _client(self.endpoint_url)

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every object below a prefix, in the order of the keys, which S3 gives."""
        bucket, prefix = _split(path)
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        try:
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"]
                    inside = not prefix or key == prefix or key.startswith(prefix + "/")
                    if inside and not key.endswith("/"):
                        yield f"{bucket}/{key}", item["Size"], item["ETag"].strip('"')
        except (ClientError, BotoCoreError) as error:
            raise _error(path, error) from error

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag)."""
        bucket, key = _split(path)
        try:
            head = self._s3.head_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise _error(path, error) from error
        return head["ContentLength"], head["ETag"].strip('"')

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return `size` bytes from `start`, in one conditional GET."""
        if size == 0:
            return b""
        bucket, key = _split(path)
        extra = {} if etag is None else {"IfMatch": etag}
        if size is not None or start:
            extra["Range"] = f"bytes={start}-{'' if size is None else start + size - 1}"
        try:
            return bytes(self._s3.get_object(Bucket=bucket, Key=key, **extra)["Body"].read())
        except (ClientError, BotoCoreError) as error:
            raise _error(path, error) from error

    def write(self, path: str, data: bytes, only_if_absent: bool) -> None:
        """Write in one PUT."""
        bucket, key = _split(path)
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        try:
            self._s3.put_object(Bucket=bucket, Key=key, Body=data, **condition)
        except (ClientError, BotoCoreError) as error:
            wrong = _error(path, error)
            if isinstance(wrong, ObjectChangedError):
                wrong = ObjectExistsError(f"s3://{path} is there already")
            raise wrong from error

    def filesystem(self) -> pafs.FileSystem:
        """Return pyarrow's S3 filesystem for the same server; only `from_uri` heeds the environment's endpoint."""
        query = ""
        if self.endpoint_url:
            server = urlsplit(self.endpoint_url)
            query = f"?endpoint_override={server.netloc}&scheme={server.scheme}"
        return pafs.FileSystem.from_uri(f"s3://bucket{query}")[0]
