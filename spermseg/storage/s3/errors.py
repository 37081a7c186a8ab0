"""Errors of S3 as errors of this project: transient, of one object, or of the whole storage.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and the additional codes of Ceph and MinIO.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from spermseg.credentials import without_environment
from spermseg.errors import (
    ObjectChangedError,
    ObjectDeniedError,
    ObjectMissingError,
    StorageError,
    StorageRefusedError,
    one_line,
)

# No answer, or an incomplete one. urllib3's own error comes from the body of a refused GET.
BROKEN = (NoConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError, HTTPError)
PASSING_STATUS = (409, 429, 500, 502, 503, 504)  # 409: concurrent conditional requests
PASSING_CODES = (
    *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete"),
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded"),
)
"""Source of the names: https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html."""

NO_CREDENTIALS = (
    *(NoCredentialsError, PartialCredentialsError, CredentialRetrievalError),
    *(TokenRetrievalError, UnauthorizedSSOTokenError),
)
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
NOT_ACCEPTED = ("InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity")
GO_ON = "the same command goes on"


def code_of(error: ClientError) -> str:
    """Return the error code of S3, or the HTTP status if the answer had no complete body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int | None:
    """Return the HTTP status of an answer."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)


def is_passing(error: BaseException) -> bool:
    """Whether an error is transient, so that the same request may soon succeed."""
    if isinstance(error, ClientError):
        code, status = code_of(error), status_of(error)
        nameless = status in (400, 403) and code == str(status) and error.operation_name != "HeadObject"
        return nameless or status in PASSING_STATUS or code in PASSING_CODES  # nameless: the body was incomplete
    return isinstance(error, BROKEN)


@contextmanager
def s3_errors(path: str) -> Iterator[None]:
    """Convert the errors of boto3 to errors of this project."""
    try:
        yield
    except NO_CREDENTIALS as error:
        advice = f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of them, and {GO_ON}"
        raise StorageRefusedError(f"s3://{path}: no credentials that can be used ({_said(error)}): {advice}") from error
    except (ResponseParserError, HTTPError) as error:  # the text of this error may hold the whole answer
        raise StorageError(f"s3://{path}: the server's answer broke off or is no S3; check the endpoint") from error
    except ParamValidationError as error:
        raise StorageRefusedError(f"s3://{path} is no name that S3 knows: {_said(error)}") from error
    except BotoCoreError as error:
        raise StorageError(f"s3://{path}: {_said(error)}") from error
    except ClientError as error:
        raise _translated(f"s3://{path}", error) from error


def _said(error: BaseException) -> str:
    """Return the message of a library in one line, with secrets of the environment masked."""
    return without_environment(one_line(error))


def _translated(uri: str, error: ClientError) -> StorageError:
    """Return our error for a `ClientError`.

    Only a refused GET concerns a single object. A refused HEAD has no code, and a refused PUT stops the run.
    """
    code, status = code_of(error), status_of(error)
    if code == "NoSuchBucket":
        return StorageRefusedError(f"{uri}: there is no such bucket; make it first, or check the name and the endpoint")
    if status == 404:
        return ObjectMissingError(f"{uri} is not there")
    if status == 412:
        return ObjectChangedError(f"{uri} changed since planned")
    if error.operation_name == "GetObject" and code == "AccessDenied":
        return ObjectDeniedError(f"{uri} may not be read with the credentials in use (AccessDenied)")
    if error.operation_name == "GetObject" and code == "InvalidObjectState":
        return ObjectDeniedError(f"{uri} is archived and cannot be read (InvalidObjectState): restore it first")
    if code in FULL:
        return StorageError(f"{uri}: no space left on the server ({code}): make room, and {GO_ON}")
    return _refused(uri, code, status) or StorageError(f"{uri}: {_said(error)}")


def _refused(uri: str, code: str, status: int | None) -> StorageError | None:
    """Return our error for refused credentials or rights; None for other causes."""
    if code in EXPIRED:
        return StorageRefusedError(f"{uri}: the credentials have expired ({code}): renew them, and {GO_ON}")
    if code == "RequestTimeTooSkewed":
        return StorageRefusedError(f"{uri}: this machine's clock is wrong ({code}): set it, and {GO_ON}")
    if code in NOT_ACCEPTED or status == 401:
        return StorageRefusedError(
            f"{uri}: access denied ({code}): the credentials are not accepted; give others, and {GO_ON}"
        )
    if status == 403:
        return StorageRefusedError(f"{uri}: access denied ({code}): check the credentials in use and what they may do")
    return None
