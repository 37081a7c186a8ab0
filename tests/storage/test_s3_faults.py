"""Storage that misbehaves: what passes is not noticed, and what does not pass is the right error, never wrong bytes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from botocore.retries.standard import ExponentialBackoff
from support.fault_proxy import TRANSIENT, Fault, FaultProxy, Kind
from support.places import keys, put

from spermseg.errors import (
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    SpermsegError,
    StorageError,
    StorageRefusedError,
)
from spermseg.storage import patience
from spermseg.storage.arrow_filesystem import arrow_filesystem
from spermseg.storage.filesystem import Location
from spermseg.storage.s3 import backend as s3

PASSING = [*TRANSIENT, Kind.TRUNCATED]
PICTURE = os.urandom(100_000)
REQUESTS = ("GET", "HEAD", "PUT", "LIST", "DELETE")


@pytest.fixture(scope="module", params=["moto_server", "radosgw"])
def each_proxy(request: pytest.FixtureRequest) -> Iterator[tuple[FaultProxy, Callable[[], Location]]]:
    server = request.getfixturevalue(request.param)
    with FaultProxy(server.endpoint_url) as proxy:
        yield proxy, server.new_bucket


@pytest.fixture(scope="module")
def moto_proxy(moto_server) -> Iterator[FaultProxy]:
    with FaultProxy(moto_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def both(each_proxy) -> Iterator[tuple[FaultProxy, Location, Location]]:
    """A proxy; a place as seen through it; the same place behind its back. On moto and on radosgw."""
    proxy, new_bucket = each_proxy
    behind = new_bucket().child("place")
    yield proxy, Location(behind.uri, proxy.endpoint_url), behind
    proxy.remove()


@pytest.fixture
def faulty(moto_proxy, moto_server) -> Iterator[tuple[FaultProxy, Location, Location]]:
    """The same on moto alone."""
    behind = moto_server.new_bucket().child("place")
    yield moto_proxy, Location(behind.uri, moto_proxy.endpoint_url), behind
    moto_proxy.remove()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    patience.be_patient(patience.Patience(total_s=60, longest_wait_s=0.01))  # a busy machine's
    for scale in ExponentialBackoff._DEFAULT_BACKOFF_CONFIG:
        monkeypatch.setitem(ExponentialBackoff._DEFAULT_BACKOFF_CONFIG, scale, 0.005)


@pytest.fixture
def short_patience(short_waits: None) -> None:
    patience.be_patient(patience.Patience(total_s=0.3, longest_wait_s=0.01))


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(s3, "CLIENT_CONFIG", s3.CLIENT_CONFIG.merge(Config(read_timeout=0.5)))
    s3.client.cache_clear()
    yield
    s3.client.cache_clear()


def uses_of(file: Location) -> dict[str, Callable[[], object]]:
    """What makes a request of each kind."""
    return {
        "GET": file.read_bytes,
        "HEAD": file.stat,
        "PUT": lambda: file.write_bytes(PICTURE),
        "LIST": lambda: keys(file),
        "DELETE": file.delete,
    }


# What passes


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_not_noticed(both, kind):
    proxy, place, behind = both
    file = place.child("a.jpg")
    for request in REQUESTS:
        proxy.inject(Fault(kind=kind, on=request, times=4))  # more than botocore alone tries
    before = proxy.faults[kind]
    file.write_bytes(PICTURE, only_if_absent=True)
    assert file.read_bytes() == PICTURE
    assert file.stat().size == len(PICTURE)
    assert keys(place) == ["a.jpg"]
    file.delete()
    assert keys(behind) == []
    assert proxy.faults[kind] >= before + len(REQUESTS)


@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
@pytest.mark.parametrize("kind", [Kind.SHORT_BODY, Kind.RESET_IN_BODY, Kind.TRUNCATED])
def test_however_much_of_a_body_arrives_it_is_whole_in_the_end(faulty, kind, kept):
    proxy, place, behind = faulty
    put(behind, "b.jpg", "c.jpg")
    behind.child("a.jpg").write_bytes(PICTURE)
    proxy.inject(Fault(kind=kind, on="GET|LIST", kept=kept, times=3))
    assert place.child("a.jpg").read_range(1000, 90_000) == PICTURE[1000:91_000]
    proxy.inject(Fault(kind=kind, on="LIST", kept=kept, times=3))
    assert keys(place) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_whole_file_and_one_that_is_open_are_whole_too(faulty):
    proxy, place, behind = faulty
    behind.child("a.jpg").write_bytes(PICTURE)
    proxy.inject(Fault(kind=Kind.TRUNCATED, on="GET", times=2))
    assert place.child("a.jpg").read_bytes() == PICTURE
    proxy.inject(Fault(kind=Kind.TRUNCATED, on="GET", times=2))
    with place.child("a.jpg").open() as file:
        assert file.read() == PICTURE


def test_an_answer_that_comes_too_late_is_asked_for_again(faulty, short_timeout):
    proxy, place, behind = faulty
    put(behind, "a.jpg")
    proxy.inject(Fault(kind=Kind.DELAY, on="GET", delay_s=1))
    proxy.inject(Fault(kind=Kind.DELAY, on="LIST", delay_s=1))
    assert place.child("a.jpg").read_bytes() == b"a.jpg"
    assert keys(place) == ["a.jpg"]


def test_through_a_burst_of_faults_nothing_is_lost_and_nothing_is_wrong(both):
    proxy, place, behind = both
    blobs = {f"{number:02}.jpg": os.urandom(2000 * number) for number in range(30)}

    def write_and_read(name: str) -> None:
        place.child(name).write_bytes(blobs[name], only_if_absent=True)
        assert place.child(name).read_bytes() == blobs[name]

    s3.client.cache_clear()  # botocore gives up sooner after the many faults of other tests
    before = proxy.faults.total()
    with proxy.burst(seed=1, share=0.3), ThreadPoolExecutor(8) as threads:
        list(threads.map(write_and_read, blobs))
        listed = {item.key: item.size for item in place.list()}
    assert listed == {name: len(blob) for name, blob in blobs.items()}
    assert {name: behind.child(name).read_bytes() for name in blobs} == blobs
    assert proxy.faults.total() > before + 8


# A write whose answer is lost


def test_a_write_that_arrived_though_its_answer_was_lost_is_a_success(both):
    proxy, place, behind = both
    for times in (1, 4):  # botocore's own second request meets the object, or a later call of ours does
        proxy.inject(Fault(kind=Kind.LOST_ANSWER, on="PUT", times=times))
        place.child(f"{times}").write_bytes(PICTURE, only_if_absent=True)
        assert behind.child(f"{times}").read_bytes() == PICTURE


@pytest.mark.parametrize("others", [b"other", PICTURE + b"x", PICTURE[:-1] + b"x", b""])
def test_a_write_that_is_tried_again_does_not_claim_what_another_wrote(both, others):
    proxy, place, behind = both
    behind.child("lock").write_bytes(others)
    proxy.inject(Fault(kind=Kind.RESET, on="PUT"))
    with pytest.raises(ObjectExistsError, match="is there already"):
        place.child("lock").write_bytes(PICTURE, only_if_absent=True)
    assert behind.child("lock").read_bytes() == others


def test_of_two_writers_of_the_same_bytes_still_only_one_wins(both):
    _, place, _ = both
    place.child("lock").write_bytes(b"same", only_if_absent=True)
    with pytest.raises(ObjectExistsError):
        place.child("lock").write_bytes(b"same", only_if_absent=True)


# What does not pass


@pytest.mark.parametrize("kind", [*(kind for kind in PASSING if kind is not Kind.DELAY)])
def test_a_fault_without_end_is_an_error_of_one_line(faulty, short_patience, kind):
    proxy, place, behind = faulty
    put(behind, "a.jpg")
    proxy.inject(Fault(kind=kind, on="GET|LIST", times=None))
    for use in (place.child("a.jpg").read_bytes, lambda: keys(place)):
        with pytest.raises(StorageError, match=r"^s3://bucket-\d+/place\S*: [^\n]+$") as caught:
            use()
        assert type(caught.value) is StorageError


def test_a_server_that_never_answers_is_an_error(faulty, short_timeout, short_patience):
    proxy, place, _ = faulty
    proxy.inject(Fault(kind=Kind.DELAY, delay_s=1, times=None))
    before = proxy.requests["GET"]
    with pytest.raises(StorageError, match=r"^s3://bucket-\d+/place/a.jpg: [^\n]*[Tt]imeout"):
        place.child("a.jpg").read_bytes()
    assert proxy.requests["GET"] <= before + 3  # no second call once the time is up


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Kind.EXPIRED, r"the credentials have expired \(ExpiredToken\): renew them, and the same command goes on"),
        (Kind.BAD_KEY, r"access denied \(InvalidAccessKeyId\): the credentials are not accepted; give others"),
        (Kind.SKEWED, r"this machine's clock is wrong \(RequestTimeTooSkewed\): set it"),
    ],
)
def test_credentials_that_are_good_for_nothing_concern_no_single_object(both, kind, says):
    proxy, place, behind = both
    put(behind, "a.jpg")
    proxy.inject(Fault(kind=kind, times=None))
    for use in uses_of(place.child("a.jpg")).values():
        with pytest.raises(StorageError, match=f"^[^\n]+: {says}[^\n]*$") as caught:
            use()
        assert type(caught.value) is StorageRefusedError
    assert keys(behind) == ["a.jpg"]


def test_credentials_that_expire_on_the_way_stop_it_there_and_new_ones_go_on(both):
    proxy, place, behind = both
    names = [f"{number}.jpg" for number in range(6)]
    put(behind, *names)
    rule = proxy.inject(Fault(kind=Kind.EXPIRED, after=4, times=None))
    done: list[str] = []

    def read_the_rest() -> None:
        for name in names[len(done) :]:
            assert place.child(name).read_bytes() == name.encode()
            done.append(name)

    with pytest.raises(StorageError, match="expired"):
        read_the_rest()
    assert done == names[:4]
    proxy.remove(rule)
    read_the_rest()
    assert done == names


@pytest.mark.parametrize("kind", [Kind.DENIED, Kind.ARCHIVED])
def test_one_object_that_may_not_be_read_leaves_the_others(faulty, kind):
    proxy, place, behind = faulty
    put(behind, "a.jpg", "b.jpg")
    proxy.inject(Fault(kind=kind, on="GET|HEAD", key=r"/a\.jpg$", times=None))
    denied = place.child("a.jpg")
    for use in (denied.read_bytes, partial(denied.read_range, 0, 1), partial(denied.read_range, 0, 0), denied.open):
        with pytest.raises(ObjectDeniedError, match="be read"):
            use()
    assert place.child("b.jpg").read_bytes() == b"b.jpg"
    assert keys(place) == ["a.jpg", "b.jpg"]


def test_one_object_that_a_policy_denies_leaves_the_others(radosgw):
    bucket = radosgw.new_bucket()
    put(bucket, "a.jpg", "b.jpg")
    rule = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject"}
    rules = [{**rule, "Resource": f"arn:aws:s3:::{bucket.path}/{name}"} for name in ("a.jpg", "none.jpg")]
    policy = json.dumps({"Version": "2012-10-17", "Statement": rules})
    boto3.client("s3", endpoint_url=radosgw.endpoint_url).put_bucket_policy(Bucket=bucket.path, Policy=policy)
    with FaultProxy(radosgw.endpoint_url) as proxy:
        place = Location(bucket.uri, proxy.endpoint_url)
        for kind in (None, Kind.SHORT_BODY, Kind.RESET_IN_BODY):
            if kind:  # the reason breaks off too
                proxy.inject(Fault(kind=kind, on="GET", times=2))
            for use in (place.child("a.jpg").read_bytes, place.child("a.jpg").stat):
                with pytest.raises(ObjectDeniedError, match=r"a.jpg may not be read with the credentials in use"):
                    use()
        assert place.child("b.jpg").read_bytes() == b"b.jpg"


@pytest.mark.parametrize("kept", [0, 0.5])
@pytest.mark.parametrize("kind", [Kind.SHORT_BODY, Kind.RESET_IN_BODY])
def test_a_refusal_whose_reason_breaks_off_is_still_the_right_one(both, kind, kept):
    proxy, place, behind = both
    put(behind, "a.jpg")
    behind.child("empty.jpg").write_bytes(b"")

    def faulty_once(request: str) -> None:
        proxy.inject(Fault(kind=kind, on=request, kept=kept))

    faulty_once("GET")
    assert place.child("empty.jpg").read_bytes() == b""
    faulty_once("GET")
    with pytest.raises(ObjectMissingError):
        place.child("none.jpg").read_bytes()
    faulty_once("GET")
    with pytest.raises(ObjectChangedError):
        place.child("a.jpg").read_range(0, 5, etag="0" * 32)
    faulty_once("PUT")
    with pytest.raises(ObjectExistsError):
        place.child("a.jpg").write_bytes(b"other", only_if_absent=True)


@pytest.mark.parametrize("request_kind", ["PUT", "LIST", "DELETE"])
def test_a_listing_or_a_write_that_is_denied_is_about_more_than_one_object(faulty, request_kind):
    proxy, place, behind = faulty
    put(behind, "a.jpg")
    proxy.inject(Fault(kind=Kind.DENIED, on=request_kind, times=None))
    with pytest.raises(StorageError, match="access denied") as caught:
        uses_of(place.child("a.jpg"))[request_kind]()
    assert not isinstance(caught.value, ObjectDeniedError)


def test_a_refusal_that_only_a_head_meets_accuses_nobody(faulty):
    proxy, place, behind = faulty
    put(behind, "a.jpg")
    proxy.inject(Fault(kind=Kind.DENIED, on="HEAD", times=None))
    with pytest.raises(StorageError, match="access denied") as caught:
        place.child("a.jpg").stat()
    assert type(caught.value) is StorageRefusedError


def test_a_refusal_is_not_asked_for_again(faulty):
    proxy, place, _ = faulty
    proxy.inject(Fault(kind=Kind.DENIED, on="GET", times=None))
    before = proxy.requests["GET"]
    with pytest.raises(ObjectDeniedError):
        place.child("a.jpg").read_bytes()
    assert proxy.requests["GET"] == before + 1


# What changed since it was listed


def test_what_a_stale_listing_shows_is_missing_or_changed_when_read(both):
    proxy, place, behind = both
    put(behind, "gone.jpg", "other.jpg", "same.jpg")
    first = list(place.list())
    behind.child("gone.jpg").delete()
    behind.child("other.jpg").write_bytes(b"another")
    put(behind, "new.jpg")
    proxy.inject(Fault(kind=Kind.STALE, on="LIST", times=None))
    stale = {item.key: item for item in place.list()}
    assert list(stale.values()) == first
    with pytest.raises(ObjectMissingError):
        place.child("gone.jpg").read_range(0, 3, etag=stale["gone.jpg"].etag)
    with pytest.raises(ObjectChangedError, match="changed since planned"):
        place.child("other.jpg").read_range(0, 3, etag=stale["other.jpg"].etag)
    assert place.child("same.jpg").read_range(0, 8, etag=stale["same.jpg"].etag) == b"same.jpg"
    proxy.remove()
    assert keys(place) == ["new.jpg", "other.jpg", "same.jpg"]


@pytest.mark.parametrize("kind", [Kind.INTERNAL_ERROR, Kind.SHORT_BODY])
def test_a_file_that_is_written_over_between_two_attempts_is_not_mixed(faulty, kind):
    proxy, place, behind = faulty
    behind.child("a.jpg").write_bytes(PICTURE)
    etag = place.child("a.jpg").stat().etag
    proxy.inject(Fault(kind=kind, on="GET"))
    behind.child("a.jpg").write_bytes(PICTURE[::-1])
    with pytest.raises(ObjectChangedError):
        place.child("a.jpg").read_range(0, len(PICTURE), etag=etag)


# The proxy itself


def test_the_proxy_changes_nothing_while_no_fault_is_active(both):
    _, place, behind = both
    names = ["Äpfel 精子.jpg", "a+b c%20.jpg", "a?b=c&d.jpg", "x//y.jpg"]
    put(place, *names)
    assert keys(place) == keys(behind) == sorted(names)
    large = os.urandom(5 << 20)
    place.child("large").write_bytes(large)
    assert place.child("large").read_bytes() == behind.child("large").read_bytes() == large
    assert place.child("large").stat().etag == behind.child("large").stat().etag
    table = pa.table({"n": range(1000)})
    filesystem, path = arrow_filesystem(place.child("t.parquet"))  # another client, with habits of its own
    pq.write_table(table, path, filesystem=filesystem)
    assert pq.read_table(path, filesystem=filesystem) == table


def test_the_proxy_passes_on_uploads_in_chunks_and_serves_other_processes(faulty):
    proxy, place, behind = faulty
    script = (
        "import http.client, sys\n"
        "client = http.client.HTTPConnection(sys.argv[1])\n"
        "for number in range(3):\n"
        "    headers = {'Expect': '100-continue', 'Transfer-Encoding': 'chunked'}\n"
        "    client.request('PUT', f'/{sys.argv[2]}/{number}', iter([b'one', b'two']), headers, encode_chunked=True)\n"
        "    while client.getresponse().read():\n"
        "        pass\n"
    )
    host = proxy.endpoint_url.removeprefix("http://")
    subprocess.run([sys.executable, "-c", script, host, place.path], check=True, timeout=60)
    assert [behind.child(str(number)).read_bytes() for number in range(3)] == [b"onetwo"] * 3


@pytest.mark.parametrize("length", [b"Content-Length: 99", b"Transfer-Encoding: chunked"])
def test_of_an_upload_whose_client_is_killed_nothing_reaches_the_server(faulty, length):
    proxy, place, behind = faulty
    with socket.create_connection(("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2]))) as client:
        client.sendall(b"PUT /%b/a.jpg HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n3\r\none\r\n" % (place.path.encode(), length))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert keys(behind) == []


def test_a_script_of_faults_is_the_same_each_time_under_its_seed(faulty):
    proxy, place, behind = faulty
    put(behind, "a.jpg")

    def outcomes(seed: int) -> str:
        rule = proxy.inject(Fault(kind=Kind.DENIED, on="GET", share=0.5, seed=seed, after=2, times=5))
        outcome = ""
        for _ in range(20):
            try:
                place.child("a.jpg").read_bytes()
                outcome += "."
            except SpermsegError:
                outcome += "x"
        proxy.remove(rule)
        return outcome

    first = outcomes(1)
    assert first == outcomes(1) != outcomes(2)
    assert first.startswith("..")
    assert first.count("x") == 5


# Writing over what was seen


def test_a_replacement_that_arrived_though_its_answer_was_lost_is_a_success(both):
    proxy, place, behind = both
    file = place.child("lock")
    behind.child("lock").write_bytes(b"one")
    for times in (1, 4):
        proxy.inject(Fault(kind=Kind.LOST_ANSWER, on="PUT", times=times))
        file.write_bytes(b"%d" % times, if_etag=file.stat().etag)
        assert behind.child("lock").read_bytes() == b"%d" % times


def test_a_replacement_that_is_tried_again_does_not_claim_what_another_wrote(both):
    proxy, place, behind = both
    behind.child("lock").write_bytes(b"one")
    seen = behind.child("lock").stat().etag
    behind.child("lock").write_bytes(b"other")
    proxy.inject(Fault(kind=Kind.RESET, on="PUT"))
    with pytest.raises(ObjectChangedError):
        place.child("lock").write_bytes(b"mine", if_etag=seen)
    assert behind.child("lock").read_bytes() == b"other"


def test_on_a_server_that_says_it_knows_no_condition_the_file_is_looked_at_instead(faulty):
    proxy, place, behind = faulty
    behind.child("lock").write_bytes(b"one")
    seen = behind.child("lock").stat().etag
    proxy.inject(Fault(kind=Kind.NOT_IMPLEMENTED, on="PUT"))
    place.child("lock").write_bytes(b"two", if_etag=seen)
    assert behind.child("lock").read_bytes() == b"two"
    proxy.inject(Fault(kind=Kind.NOT_IMPLEMENTED, on="PUT"))
    with pytest.raises(ObjectChangedError):
        place.child("lock").write_bytes(b"six", if_etag=seen)
    assert behind.child("lock").read_bytes() == b"two"
