"""Write an object on S3 in parts: a multipart upload, with retries for each request."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from tenacity import Retrying
from urllib3.exceptions import HTTPError

from spermseg.storage.s3.errors import code_of, s3_errors


class S3Parts:
    """A multipart upload. The object appears, or is replaced, when the upload is completed.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html.

    Args:
        bucket: the bucket.
        key: the key of the object.
        call: returns the boto3 method of a name.
        retrying: returns a new tenacity controller.
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
        """Upload the next part."""
        number = len(self._etags) + 1
        self._etags.append(self._ask("upload_part", PartNumber=number, Body=part, **self._upload)["ETag"])
        self._size += len(part)

    def finish(self) -> None:
        """Complete the upload. A completion by an earlier attempt of this same call is a success."""
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
        """Abort the upload. Parts of an unfinished upload are invisible, but cost money."""
        with suppress(BotoCoreError, ClientError, HTTPError):
            self._call("abort_multipart_upload")(**self._upload)

    def _ask(self, operation: str, **request: Any) -> Any:
        with s3_errors(self._path):
            return self._retrying()(self._call(operation), **request)
