"""Listings in many requests at once: the same keys in the same order as page after page, whatever the folders are."""

import bisect
import threading
import time
from functools import partial
from itertools import chain

import pytest
from botocore.parsers import ResponseParserError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.places import put

from spermseg.errors import StorageError
from spermseg.storage.prefetch import search
from spermseg.storage.s3 import backend as s3
from spermseg.storage.s3 import listing as s3_listing
from spermseg.storage.s3.backend import S3Backend
from spermseg.storage.s3.listing import KeyListing, read_quickly

names = st.text(alphabet="ab/!0é\U0010ffff", min_size=1, max_size=7)
folders = st.builds(
    lambda folder, count: [f"{folder}/{n:02}" for n in range(count)],
    st.text(alphabet="abc/", max_size=5),
    st.integers(0, 40),
)
key_sets = st.lists(folders | st.lists(names, max_size=5), max_size=12).map(
    lambda found: sorted({*chain.from_iterable(found)})
)


def size_of(key: str) -> int:
    """Return the bytes of an object; of those that end in a slash, half stand for folders and hold none."""
    return len(key) * (not key.endswith("/") or len(key) % 2)


class StubBucket:
    """What the listing call of S3 answers, a few keys a page."""

    def __init__(self, keys: list[str], page: int) -> None:
        self.keys, self.size, self.pages = sorted(keys), page, 0

    def page(self, **request: str) -> dict:
        self.pages += 1
        prefix, delimiter, token = (request.get(name, "") for name in ("Prefix", "Delimiter", "ContinuationToken"))
        after = token or request.get("StartAfter", "")
        found: list[str] = []
        for key in self.keys[bisect.bisect_right(self.keys, after) :]:
            rest = key[len(prefix) :]
            name = prefix + rest.split("/")[0] + "/" if delimiter and "/" in rest else key
            if key.startswith(prefix) and name not in found[-1:] and not (token and after.startswith(name)):
                found.append(name)
            if len(found) > self.size:
                break
        more = len(found) > self.size
        found = found[: self.size]
        below = [name for name in found if delimiter and "/" in name[len(prefix) :]]
        return {
            "IsTruncated": more,
            **({"NextContinuationToken": found[-1] + "\U0010ffff" * (found[-1] in below)} if more else {}),
            "Contents": [
                {"Key": name, "Size": size_of(name), "ETag": f'"{name}"'} for name in found if name not in below
            ],
            "CommonPrefixes": [{"Prefix": name} for name in below],
        }


def listed(bucket: StubBucket, prefix: str = "") -> list[str]:
    found = list(KeyListing(page=bucket.page, uri="s3://stub").entries(prefix))
    assert all((size, etag) == (size_of(key), key) for key, size, etag in found)
    return [key for key, _, _ in found]


@given(keys=key_sets, page=st.integers(1, 5), prefix=st.sampled_from(["", "a/", "b/"]))
@example(keys=[f"{p:03}/{n}" for p in range(60) for n in range(3)], page=2, prefix="")
@example(keys=[*[f"{p:03}/0" for p in range(40)], *[f"020/{n}" for n in range(1, 200)]], page=2, prefix="")
@example(keys=[name for p in range(40) for name in (f"{p:03}", f"{p:03}/a", f"{p:03}!")], page=3, prefix="")
@example(
    keys=[name for p in range(40) for name in (f"{p:03}-/b", f"{p:03}.a", f"{p:03}/", f"{p:03}/b")], page=2, prefix=""
)
@example(
    keys=[f"{p:03}{rest}" for p in range(40) for rest in (".\U0010ffff\U0010ffff", *(f"/{n}" for n in range(9)))],
    page=4,
    prefix="",
)
@example(  # a chain is split where a page ends between two files
    keys=[*(f"{p:03}/{n:03}" for p in range(12) for n in range(79 if p == 8 else 5)), "008x0", "008x1"],
    page=5,
    prefix="",
)
@settings(max_examples=300)
def test_a_listing_in_many_requests_is_that_of_one_page_after_the_other(keys, page, prefix):
    assert listed(StubBucket(keys, page), prefix) == [
        key for key in sorted(keys) if key.startswith(prefix) and size_of(key)
    ]


@pytest.mark.parametrize("server", ["moto_server", "radosgw"])
def test_real_servers_list_the_same_in_many_requests(server, request):
    bucket = request.getfixturevalue(server).new_bucket()
    names = [
        *(f"clinic/patient-{p:02}/{n}.jpg" for p in range(12) for n in range(3)),
        *(f"clinic/patient-05/session {n}/ä+&.jpg" for n in range(30)),
        *("clinic/patient-05.jpg", "clinic/patient-05!/x.jpg", "clinic//empty.jpg", "clinic2/not.jpg"),
    ]
    put(bucket, *names)
    slashed = [f"clinic/patient-{p:02}/" for p in range(0, 12, 3)]  # that hold bytes, and so are files
    for name, data in [*((name, b"x") for name in slashed), ("clinic/patient-01/", b"")]:
        bucket.upload(f"{bucket.uri}/{name}").write_bytes(data)
    names += slashed
    backend = S3Backend(bucket.endpoint_url)
    for page in (1, 2, 5):
        few = partial(backend._listed, bucket.path, Bucket=bucket.path, MaxKeys=page)
        found = [key for key, _, _ in KeyListing(page=few, uri=bucket.uri).entries("clinic/")]
        assert found == sorted(name for name in names if name.startswith("clinic/"))


def test_a_server_that_knows_no_folders_is_listed_all_the_same():
    bucket = StubBucket([f"{p}/{n}" for p in range(9) for n in range(9)], page=3)

    def page(**request: str) -> dict:
        return bucket.page(**{name: value for name, value in request.items() if name != "Delimiter"})

    found = [key for key, _, _ in KeyListing(page=page, uri="s3://stub").entries("")]
    assert found == bucket.keys


def test_folders_cost_few_requests_more_than_plain_pages():
    shapes = {
        "flat": [f"{n:05}" for n in range(4000)],
        "one file a folder": [f"{n:05}/a" for n in range(4000)],
        "large folders": [f"{n // 500}/{n:05}" for n in range(4000)],
        "deep": [f"2026/11/{n // 100:03}/session/{n:05}" for n in range(4000)],
        "files beside folders": [name for n in range(2000) for name in (f"{n:05}.jpg", f"{n:05}/a")],
        "one large folder among small ones": [
            *(f"{n:05}/a" for n in range(2000)),
            *(f"00010/{n:05}" for n in range(2000)),
        ],
    }
    for shape, keys in shapes.items():
        bucket = StubBucket(keys, page=20)
        assert listed(bucket) == bucket.keys
        assert bucket.pages < 2.2 * len(keys) / 20, shape


def test_requests_are_made_at_once_but_never_more_than_allowed():
    bucket = StubBucket([f"{p:03}/{n:03}" for p in range(100) for n in range(20)], page=20)
    now, most, lock = 0, 0, threading.Lock()

    def page(**request: str) -> dict:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
            return bucket.page(**request)

    assert len(list(KeyListing(page=page, uri="s3://stub").entries(""))) == 2000
    assert 4 <= most <= s3_listing.REQUESTS


def test_a_fault_in_any_part_is_raised_and_no_request_follows_a_listing_that_was_left():
    bucket = StubBucket([f"{p:03}/{n:03}" for p in range(50) for n in range(20)], page=5)

    def page(**request: str) -> dict:
        if bucket.pages == 60:
            raise StorageError("s3://stub: refused")
        return bucket.page(**request)

    with pytest.raises(StorageError, match="refused"):
        list(KeyListing(page=page, uri="s3://stub").entries(""))
    before = bucket.pages
    next(entries := KeyListing(page=bucket.page, uri="s3://stub").entries(""))
    del entries
    time.sleep(0.05)
    assert bucket.pages <= before + 1 + s3_listing.REQUESTS


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], ["a/b", "a"]])
def test_a_server_that_lists_out_of_order_is_an_error_since_parts_of_it_would_be_missed(keys):
    def page(**request: str) -> dict:
        return {"IsTruncated": False, "Contents": [{"Key": key, "Size": 1, "ETag": "e"} for key in keys]}

    with pytest.raises(StorageError, match=r"^s3://stub: the server lists keys out of order"):
        list(KeyListing(page=page, uri="s3://stub").entries(""))


# Answers


def answer(entries: str, space: str = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"') -> bytes:
    return f"<ListBucketResult{space}><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


ENTRY = "<Contents><Key>a&amp;%20é</Key><Size>7</Size><ETag>&quot;x&quot;</ETag><Other>1</Other></Contents>"


@pytest.mark.parametrize("space", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', ' xmlns="other"'])
def test_entries_are_taken_out_of_an_answer_and_botocore_parses_the_rest(space):
    response, found = {"body": answer(ENTRY * 2, space)}, {}
    read_quickly(response, found)
    assert found == {"Contents": [{"Key": "a&%20é", "Size": 7, "ETag": '"x"'}] * 2}
    assert b"Contents" not in response["body"]
    assert b"IsTruncated" in response["body"]


@pytest.mark.parametrize("body", [b"", b"<", answer(ENTRY)[:-9], answer(""), b"<Error><Code>SlowDown</Code></Error>"])
def test_what_is_no_whole_listing_is_left_to_botocore(body):
    response, found = {"body": body}, {}
    read_quickly(response, found)
    assert (response, found) == ({"body": body}, {})


@pytest.mark.parametrize("part", ["<Key>a&amp;%20é</Key>", "<Size>7</Size>", "<ETag>&quot;x&quot;</ETag>", "7"])
def test_an_entry_without_its_name_size_or_etag_is_a_fault_that_is_asked_for_again(part):
    with pytest.raises(ResponseParserError):
        read_quickly({"body": answer(ENTRY.replace(part, ""))}, {})


# Work ahead


trees = st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=4), max_leaves=60)


@given(trees, st.integers(1, 4), st.integers(1, 6))
def test_a_search_finds_all_leaves_in_order_and_no_more_of_them_ahead_than_allowed(tree, threads, ahead):
    found: list[int] = []

    def step(node) -> list:
        if not isinstance(node, int):
            return [partial(step, child) for child in node]
        found.append(node)
        return [[node]]

    def leaves(node) -> list[int]:
        return [node] if isinstance(node, int) else [leaf for child in node for leaf in leaves(child)]

    taken: list[int] = []
    for part in search(partial(step, tree), threads=threads, ahead=ahead):
        taken += part
        assert len(found) - len(taken) <= ahead
    assert taken == leaves(tree)


def test_the_client_of_every_server_reads_quickly(moto_server, monkeypatch):
    place = moto_server.new_bucket()
    put(place, "a&b é.jpg")
    seen: list[int] = []
    quickly = s3_listing.KeyListing.entries
    monkeypatch.setattr(KeyListing, "entries", lambda *args: seen.append(1) or quickly(*args))
    (item,) = place.list()
    assert (item.key, item.size) == ("a&b é.jpg", len("a&b é.jpg".encode()))
    assert seen == [1]
    handlers = s3.client(moto_server.endpoint_url).meta.events._emitter._handlers.prefix_search(
        "before-parse.s3.ListObjectsV2"
    )
    assert read_quickly in handlers
