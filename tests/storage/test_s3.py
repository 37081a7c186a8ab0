"""What no test server does on demand: answers that break off, and conditional requests that meet."""

import io
from collections.abc import Iterator

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from spermseg.errors import ObjectExistsError, StorageError
from spermseg.storage import patience
from spermseg.storage.filesystem import Location
from spermseg.storage.s3 import backend as s3


@pytest.fixture(autouse=True)
def short_waits() -> None:
    patience.be_patient(patience.Patience(longest_wait_s=0.01))


@pytest.fixture
def no_patience() -> None:
    patience.be_patient(patience.Patience(total_s=0))


@pytest.fixture
def answers(s3_keys: None) -> Iterator[Stubber]:
    """Scripted answers for `place`; each must be asked for."""
    with Stubber(s3.client("http://scripted:1")) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def place() -> Location:
    return Location("s3://bucket/a.jpg", "http://scripted:1")


def body(data: bytes, declared: int) -> dict[str, object]:
    return {"Body": StreamingBody(io.BytesIO(data), declared)}


def test_a_body_that_breaks_off_is_asked_for_again(answers, place):
    answers.add_response("get_object", body(b"01", 4))
    answers.add_response("get_object", body(b"", 4))
    answers.add_response("get_object", body(b"0123", 4))
    assert place.read_range(0, 4) == b"0123"


@pytest.mark.usefixtures("no_patience")
def test_a_body_that_always_breaks_off_is_an_error_in_the_end(answers, place):
    answers.add_response("get_object", body(b"01", 4))
    with pytest.raises(StorageError, match=r"^s3://bucket/a.jpg: [^\n]*2[^\n]*4[^\n]*$"):
        place.read_range(0, 4)


def test_a_conditional_write_that_meets_another_is_tried_again(answers, place):
    answers.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
    answers.add_response("put_object", {})
    place.write_bytes(b"x", only_if_absent=True)


def test_a_conditional_write_that_lost_to_another_says_so(answers, place):
    answers.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
    answers.add_client_error("put_object", "PreconditionFailed", http_status_code=412)
    answers.add_response("get_object", body(b"y", 1))
    with pytest.raises(ObjectExistsError):
        place.write_bytes(b"x", only_if_absent=True)


@pytest.mark.usefixtures("no_patience")
def test_conflicts_without_end_are_an_error_that_claims_no_winner(answers, place):
    answers.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
    with pytest.raises(StorageError, match="ConditionalRequestConflict") as caught:
        place.write_bytes(b"x", only_if_absent=True)
    assert not isinstance(caught.value, ObjectExistsError)


@pytest.mark.usefixtures("no_patience")
def test_an_error_of_the_server_keeps_its_code_and_fits_one_line(answers, place):
    answers.add_client_error("get_object", "SlowDown", "Please reduce\nyour request rate", http_status_code=503)
    with pytest.raises(StorageError, match=r"^s3://bucket/a.jpg: [^\n]*SlowDown[^\n]*reduce your request rate$"):
        place.read_bytes()
