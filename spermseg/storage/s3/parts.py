"""An object on S3 in many parts: a multipart upload, each request of which is tried with patience."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from tenacity import Retrying
from urllib3.exceptions import HTTPError

from spermseg.storage.s3.errors import code_of, s3_errors


class S3Parts:
    """Parts of an object, which appears when they are put together, over the one that was there.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html.

    Args:
        bucket: its bucket.
        key: its key.
        call: returns what makes a request, for the name of one.
        retrying: returns a fresh caller of functions.
    """

    def __init__(
        self, bucket: str, key: str, call: Callable[[str], Callable[..., Any]], retrying: Callable[[], Retrying]
    ) -> None:
        self._path, self._call, self._retrying = f"{bucket}/{key}", call, retrying
        self._object = {"Bucket": bucket, "Key": key}
        self._etags: list[str] = []
        self._size = 0
        self._upload = {**self._object, "UploadId": self._ask("create_multipart_upload", **self._object)["UploadId"]}

    def add(self, part: bytes) -> None:
        """Send what follows."""
        number = len(self._etags) + 1
        self._etags.append(self._ask("upload_part", PartNumber=number, Body=part, **self._upload)["ETag"])
        self._size += len(part)

    def finish(self) -> None:
        """Put the parts together. That an earlier attempt of this very call did so is a success."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(self._etags, start=1)]
        retrying = self._retrying()
        with s3_errors(self._path):
            try:
                retrying(self._call("complete_multipart_upload"), MultipartUpload={"Parts": parts}, **self._upload)
            except ClientError as error:
                again = retrying.statistics["attempt_number"] > 1
                if not (again and code_of(error) == "NoSuchUpload" and self._is_there()):
                    raise

    def _is_there(self) -> bool:
        head = self._ask("head_object", **self._object)
        return bool(head["ContentLength"] == self._size and head["ETag"].strip('"').endswith(f"-{len(self._etags)}"))

    def discard(self) -> None:
        """Give the parts up, which cost money where they lie, though nobody sees them."""
        with suppress(BotoCoreError, ClientError, HTTPError):
            self._call("abort_multipart_upload")(**self._upload)

    def _ask(self, operation: str, **request: Any) -> Any:
        with s3_errors(self._path):
            return self._retrying()(self._call(operation), **request)
