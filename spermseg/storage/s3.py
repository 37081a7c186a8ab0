"""S3 and servers that speak it, through boto3: listings with etags, ranged and conditional requests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode, urlsplit

import boto3
import pyarrow.fs as pafs
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from spermseg.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    one_line,
)

# pyarrow's uploads fail with HTTP 411 on several servers (Ceph, rclone) unless checksums are sent only when required.
os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")

CLIENT_CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 5},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=32,
)
ATTEMPTS = 3  # at what botocore does not retry: a body that breaks off, and two conditional PUTs that met
BROKEN_OFF = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)


@lru_cache(maxsize=8)
def client(endpoint_url: str | None) -> Any:
    """Return the boto3 client of this process for a server, made once; `client.cache_clear()` forgets credentials."""
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=CLIENT_CONFIG)


def resolve_endpoint(endpoint_url: str | None) -> str | None:
    """Return the server's URL, from the environment where none is given; None is AWS.

    Raises:
        ConfigError: it is no http or https URL of a server, or carries credentials.
    """
    found = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not found:
        return None
    server = urlsplit(found)
    if "@" in server.netloc:
        raise ConfigError("the S3 endpoint carries credentials; give them as AWS_ACCESS_KEY_ID and the like instead")
    if server.scheme not in ("http", "https") or not server.hostname:
        raise ConfigError(f"got the S3 endpoint {found!r}; give http://host:port or https://host")
    return found


@dataclass(frozen=True)
class S3Backend:
    """Objects on S3; `path` is `bucket/key`."""

    endpoint_url: str | None
    """As `resolve_endpoint` returns it."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every object at or below a path, in the order of the keys, which S3 gives."""
        bucket, key = _split(path)
        with _s3_errors(path):
            if key:  # a listing by `key` alone would page through all of `key-archive/` too
                first = client(self.endpoint_url).list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
                yield from _entries(bucket, (item for item in first.get("Contents", ()) if item["Key"] == key))
            pages = client(self.endpoint_url).get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=f"{key}/" if key else ""):
                yield from _entries(bucket, page.get("Contents", ()))

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag)."""
        return self._head(path)

    def _head(self, path: str, **condition: str) -> tuple[int, str]:
        bucket, key = _split_object(path)
        with _s3_errors(path):
            head = client(self.endpoint_url).head_object(Bucket=bucket, Key=key, **condition)
            return head["ContentLength"], _bare(head["ETag"])

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start`, in one conditional GET; fewer where the object ends before."""
        bucket, key = _split_object(path)
        extra = {} if etag is None else {"IfMatch": f'"{etag}"'}
        if size == 0:  # no Range header can say this
            self._head(path, **extra)
            return b""
        if size is not None or start:
            extra["Range"] = f"bytes={start}-{'' if size is None else start + size - 1}"
        with _s3_errors(path):
            try:
                return self._get(Bucket=bucket, Key=key, **extra)
            except ClientError as error:
                if _code(error) == "InvalidRange":
                    return b""
                raise

    def _get(self, **request: str) -> bytes:
        for _ in range(ATTEMPTS - 1):
            body = client(self.endpoint_url).get_object(**request)["Body"]
            try:
                return bytes(body.read())
            except BROKEN_OFF:
                continue
        return bytes(client(self.endpoint_url).get_object(**request)["Body"].read())

    def write(self, path: str, data: bytes, only_if_absent: bool) -> None:
        """Write in one PUT."""
        bucket, key = _split_object(path)
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        with _s3_errors(path):
            try:
                self._put(Bucket=bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                if _code(error) == "PreconditionFailed":
                    raise ObjectExistsError(f"s3://{path} is there already") from error
                raise

    def _put(self, **request: Any) -> None:
        for _ in range(ATTEMPTS - 1):
            try:
                client(self.endpoint_url).put_object(**request)
            except ClientError as error:
                if _code(error) != "ConditionalRequestConflict":
                    raise
            else:
                return
        client(self.endpoint_url).put_object(**request)

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        bucket, key = _split_object(path)
        with _s3_errors(path):
            client(self.endpoint_url).delete_object(Bucket=bucket, Key=key)

    def filesystem(self, path: str) -> pafs.FileSystem:
        """Return pyarrow's S3 filesystem for the same server; only `from_uri` heeds the environment's endpoint."""
        query = ""
        if self.endpoint_url:
            server = urlsplit(self.endpoint_url)
            query = "?" + urlencode({"endpoint_override": server.netloc, "scheme": server.scheme})
        bucket, _ = _split(path)  # its region is asked for where no server is given
        try:
            return pafs.FileSystem.from_uri(f"s3://{bucket}{query}")[0]
        except OSError as error:
            raise StorageError(f"s3://{path}: {one_line(error)}") from error


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _split_object(path: str) -> tuple[str, str]:
    bucket, key = _split(path)
    if not key:
        raise ObjectMissingError(f"s3://{path} is a bucket; needed is an object, s3://{bucket}/key")
    return bucket, key


def _entries(bucket: str, items: Any) -> Iterator[tuple[str, int, str]]:
    """Yield (path, size, etag) of listed items, without the empty objects that stand for folders."""
    for item in items:
        if not item["Key"].endswith("/"):
            yield f"{bucket}/{item['Key']}", item["Size"], _bare(item["ETag"])


def _bare(etag: str) -> str:
    return etag.strip('"')


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _s3_errors(path: str) -> Iterator[None]:
    """Turn boto3's errors into ours; a HEAD has no body, so only its status tells what was wrong."""
    try:
        yield
    except BotoCoreError as error:
        raise StorageError(f"s3://{path}: {one_line(error)}") from error
    except ClientError as error:
        raise _translated(path, error) from error


def _translated(path: str, error: ClientError) -> StorageError:
    code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return StorageError(f"s3://{path}: there is no such bucket; make it first, or check the name and the endpoint")
    if status == 404:
        return ObjectMissingError(f"s3://{path} is not there")
    if status == 412:
        return ObjectChangedError(f"s3://{path} changed since planned")
    if status in (401, 403):
        return StorageError(f"s3://{path}: access denied ({code}); check the credentials in use and what they may do")
    return StorageError(f"s3://{path}: {one_line(error)}")
