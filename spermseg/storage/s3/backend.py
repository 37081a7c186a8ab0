"""The backend for S3 and compatible servers, through boto3: listings, range requests and conditional requests.

Only `Patience` retries. The retries of botocore are off, since nested retries have no predictable time limit.
`Patience` also retries what botocore does not detect: bodies that break off, incomplete listings, and concurrent
conditional requests.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, IncompleteReadError
from botocore.parsers import ResponseParserError
from tenacity import Retrying

from spermseg.credentials import CREDENTIALS_ADVICE, carries_credentials, misread_proxy
from spermseg.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
)
from spermseg.storage.local.uploads import Listed
from spermseg.storage.patience import Patience, patience
from spermseg.storage.s3.errors import code_of, is_passing, s3_errors, status_of
from spermseg.storage.s3.listing import KeyListing, read_quickly
from spermseg.storage.s3.parts import S3Parts

CLIENT_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 1},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=32,
)


@lru_cache(maxsize=8)
def client(endpoint_url: str | None) -> Any:
    """Return the boto3 client of this process for a server. It is cached; `client.cache_clear()` drops credentials.

    Raises:
        ConfigError: the environment names a proxy with a malformed password.
    """
    if name := misread_proxy():
        raise ConfigError(
            f"got {name} in the environment with a user whose password holds a slash, ? or #: percent-encode it "
            "as %2F, %3F or %23"
        )
    made = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=CLIENT_CONFIG)
    made.meta.events.register("before-parse.s3.ListObjectsV2", read_quickly)
    return made


def resolve_endpoint(endpoint_url: str | None) -> str | None:
    """Return the URL of the server, from the argument or else from the environment. None means AWS.

    Raises:
        ConfigError: it is no http or https URL of a server, or holds credentials. The message leaves those out.
    """
    found = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not found:
        return None
    if carries_credentials(found) or "@" in found:
        raise ConfigError(
            "the S3 endpoint carries credentials, or is signed with them; give http://host:port or https://host, and "
            f"{CREDENTIALS_ADVICE}"
        )
    if not _is_server(found):
        given = f" {found!r}" if _is_server(f"http://{found}") else ", which is no URL of a server"
        raise ConfigError(f"got the S3 endpoint{given}; give http://host:port or https://host")
    return found


def _is_server(url: str) -> bool:
    """Whether a text is the http or https URL of a server, with at most a path behind the server."""
    try:
        server = urlsplit(url)
        known = server.scheme in ("http", "https") and bool(server.hostname) and server.port != 0
    except ValueError:
        return False
    return known and url.isprintable() and not any(letter in url for letter in " ?#@\\")


@dataclass(frozen=True)
class S3Backend:
    """Objects on S3. `path` is `bucket/key`."""

    endpoint_url: str | None
    """The return value of `resolve_endpoint`."""
    patience: Patience | None = field(default=None, compare=False)
    """How long to retry; None takes the patience of the process at each call."""

    def list_objects(self, path: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path, size, etag) of every object at or below a path, in the order of the keys."""
        bucket, key = _split(path)
        if key:  # one listing with the prefix `key` would include all of `key-archive/`, too
            first = self._listed(path, Bucket=bucket, Prefix=key, MaxKeys=1)
            for item in first.get("Contents", ()):
                if item["Key"] == key:
                    yield path, item["Size"], _bare(item["ETag"])
        listing = KeyListing(page=partial(self._listed, path, Bucket=bucket), uri=f"s3://{path}")
        for name, size, etag in listing.entries(f"{key}/" if key else ""):
            yield f"{bucket}/{name}", size, etag

    def list_uploads(self, path: str) -> Iterator[Listed]:
        """Yield the objects of `list_objects`. A bucket has no links, and every object can be listed."""
        return (Listed(*found) for found in self.list_objects(path))

    def _listed(self, path: str, **request: Any) -> dict[str, Any]:
        """Return one complete page. boto3's paginator takes an answer without a body for an empty bucket."""

        def page() -> dict[str, Any]:
            answer: dict[str, Any] = client(self.endpoint_url).list_objects_v2(**request)
            nowhere = (None, request.get("ContinuationToken"))
            if answer.get("IsTruncated", True) and answer.get("NextContinuationToken") in nowhere:
                raise ResponseParserError("a listing that is cut short")
            return answer

        with s3_errors(path):
            return self._retrying(path)(page)

    def real_path(self, path: str) -> str:
        """Return the path itself, since a bucket has no links."""
        return path

    def no_files(self, path: str) -> Iterator[tuple[str, str]]:  # noqa: ARG002 (a bucket holds objects)
        """Yield nothing, since a bucket holds only objects."""
        return iter(())

    def abandoned(self, path: str, latest: str, *, deep: bool) -> Iterator[str]:  # noqa: ARG002 (a PUT leaves nothing)
        """Yield nothing, since a PUT is atomic."""
        return iter(())

    def stat(self, path: str) -> tuple[int, str]:
        """Return (size, etag)."""
        return self._head(path)

    def _head(self, path: str, **condition: str) -> tuple[int, str]:
        bucket, key = _split_object(path)
        request = {"Bucket": bucket, "Key": key, **condition}
        with s3_errors(path):
            try:
                head = self._patiently(path, "head_object", **request)
            except ClientError as error:
                if status_of(error) in (400, 401, 403):  # a HEAD has no body; the error of a GET has a code
                    self._patiently(path, "get_object", Range="bytes=0-0", **request)["Body"].close()
                raise
            return head["ContentLength"], _bare(head["ETag"])

    def read_range(self, path: str, start: int, size: int | None, etag: str | None) -> bytes:
        """Return up to `size` bytes from `start` with one conditional GET; fewer if the object ends before."""
        bucket, key = _split_object(path)
        extra = {} if etag is None else {"IfMatch": f'"{etag}"'}
        if size == 0:  # a Range header cannot be empty
            self._head(path, **extra)
            return b""
        # A whole object is also requested as a range. Its answer then states the size of the object, for `_get`.
        extra["Range"] = f"bytes={start}-{'' if size is None else start + size - 1}"
        with s3_errors(path):
            try:
                return self._retrying(path)(self._get, start, size, Bucket=bucket, Key=key, **extra)
            except ClientError as error:
                if status_of(error) == 416:
                    return b""
                raise

    def _get(self, start: int, size: int | None, **request: str) -> bytes:
        """Return the body of one GET. Raise IncompleteReadError if the number of bytes is wrong."""
        answer = client(self.endpoint_url).get_object(**request)
        data = bytes(answer["Body"].read())
        if span := re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange", "")):
            there = int(span[1]) - start
            needed = there if size is None else min(size, there)
            if len(data) != needed:
                raise IncompleteReadError(actual_bytes=len(data), expected_bytes=needed)
        return data

    def write(self, path: str, data: bytes, only_if_absent: bool, if_etag: str | None) -> None:
        """Write with one PUT. An object that an earlier attempt of this same call wrote is a success."""
        if if_etag:
            self._replace(path, data, if_etag)
        else:
            self._put(path, data, **({"IfNoneMatch": "*"} if only_if_absent else {}))

    def begin(self, path: str) -> S3Parts:
        """Return a writer for an object that is written in parts."""
        return S3Parts(*_split_object(path), self._call, partial(self._retrying, path))

    def _put(self, path: str, data: bytes, **condition: str) -> None:
        bucket, key = _split_object(path)
        retrying = self._retrying(path)
        with s3_errors(path):
            try:
                retrying(self._call("put_object"), Bucket=bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                again = retrying.statistics["attempt_number"] > 1
                if condition and status_of(error) in (404, 412) and again and self._is(path, data):
                    return
                if "IfNoneMatch" in condition and status_of(error) == 412:
                    raise ObjectExistsError(f"s3://{path} is there already") from error
                raise

    def _replace(self, path: str, data: bytes, etag: str) -> None:
        """Replace the object if it has this etag.

        In `If-Match`, Ceph accepts only an etag without quotes, and other servers only one with quotes, as in HTTP. For
        a server without `If-Match`, the etag is compared before the PUT. A concurrent write between the two is not
        detected here; callers must read the object again.
        """
        for spelt in (f'"{etag}"', etag):
            try:
                return self._put(path, data, IfMatch=spelt)
            except ObjectChangedError:
                self._check_etag(path, etag)
            except StorageError as error:
                if not (isinstance(error.__cause__, ClientError) and code_of(error.__cause__) == "NotImplemented"):
                    raise
                break
        self._check_etag(path, etag)
        return self._put(path, data)

    def _check_etag(self, path: str, etag: str) -> None:
        if self._head(path)[1] != etag:
            raise ObjectChangedError(f"s3://{path} changed since it was last read")

    def _is(self, path: str, data: bytes) -> bool:
        """Whether an object holds exactly these bytes."""
        try:
            return self.read_range(path, 0, len(data) + 1, None) == data
        except ObjectMissingError:
            return False

    def delete_folder(self, path: str) -> None:
        """Remove every object below a path."""
        for found, _, _ in self.list_objects(path):
            if found != path:
                self.delete(found)

    def delete(self, path: str) -> None:
        """Remove an object, if it exists."""
        bucket, key = _split_object(path)
        with s3_errors(path):
            self._patiently(path, "delete_object", Bucket=bucket, Key=key)

    def _retrying(self, path: str) -> Retrying:
        return (self.patience or patience()).retrying(f"s3://{path}", is_passing)

    def _patiently(self, path: str, operation: str, **request: Any) -> Any:
        return self._retrying(path)(self._call(operation), **request)

    def _call(self, operation: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(client(self.endpoint_url), operation)
        return function


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _split_object(path: str) -> tuple[str, str]:
    bucket, key = _split(path)
    if not key:
        raise ObjectMissingError(f"s3://{path} is a bucket; needed is an object, s3://{bucket}/key")
    return bucket, key


def _bare(etag: str) -> str:
    return etag.strip('"')
