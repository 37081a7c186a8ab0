"""What only a server can do wrong: buckets, credentials and endpoints, on moto and on Ceph's radosgw."""

import time

import pytest
from support.places import keys, put

from spermseg.errors import (
    ConfigError,
    ObjectMissingError,
    StorageError,
)
from spermseg.storage import patience
from spermseg.storage.arrow_filesystem import arrow_filesystem
from spermseg.storage.filesystem import Location
from spermseg.storage.s3 import backend as s3


def test_a_bucket_is_no_object(radosgw):
    bucket = radosgw.new_bucket()
    assert not bucket.exists()
    with pytest.raises(ObjectMissingError, match="needed is an object"):
        bucket.write_bytes(b"x")


@pytest.mark.parametrize("server", ["moto_server", "radosgw"])
def test_a_bucket_that_is_not_there_is_named(server, request):
    place = Location("s3://no-such-bucket/a.jpg", request.getfixturevalue(server).endpoint_url)
    for use in (place.read_bytes, lambda: list(place.list()), lambda: place.write_bytes(b"x")):
        with pytest.raises(StorageError, match=r"no-such-bucket.*no such bucket"):
            use()
    assert not place.exists()


@pytest.mark.parametrize(("name", "value"), [("AWS_ACCESS_KEY_ID", "stranger"), ("AWS_SECRET_ACCESS_KEY", "guessed")])
def test_wrong_credentials_are_refused_in_a_line_that_does_not_show_them(radosgw, monkeypatch, name, value):
    file = radosgw.new_bucket().child("a.jpg")
    file.write_bytes(b"x")
    monkeypatch.setenv(name, value)
    s3.client.cache_clear()
    try:
        for use in (file.read_bytes, file.exists, lambda: list(file.list()), lambda: file.write_bytes(b"x")):
            with pytest.raises(StorageError, match=r"^s3://bucket-\d+/a.jpg: access denied [^\n]+$") as caught:
                use()
            assert "guessed" not in caught.value.message
            assert "stranger" not in caught.value.message
    finally:
        s3.client.cache_clear()


def test_no_credentials_at_all_are_named(radosgw, monkeypatch, tmp_path):
    file = radosgw.new_bucket().child("a.jpg")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3.client.cache_clear()
    try:
        with pytest.raises(StorageError, match="credentials"):
            file.read_bytes()
    finally:
        s3.client.cache_clear()


def test_a_server_that_does_not_answer_is_an_error_within_half_a_minute(s3_keys):
    patience.be_patient(patience.Patience(total_s=3, longest_wait_s=1))
    place = Location("s3://bucket/a.jpg", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9"):
        place.read_bytes()
    assert time.monotonic() - began < 30


def test_the_environments_endpoint_serves_where_none_is_given(moto_server, monkeypatch):
    place = moto_server.new_bucket()
    put(place, "a.jpg")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint_url)
    same = Location(place.uri)
    assert keys(same) == ["a.jpg"]
    assert same.contains(place.child("a.jpg"))
    filesystem, path = arrow_filesystem(same.child("a.jpg"))
    assert filesystem.open_input_file(path).read() == b"a.jpg"


def test_the_same_bucket_name_on_another_server_is_another_place(s3_keys):
    assert not Location("s3://b/a", "http://one:1").contains(Location("s3://b/a", "http://two:1"))
    assert not Location("s3://b/a").contains(Location("/b/a"))


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://", "/tmp"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint):
    with pytest.raises(ConfigError, match="give http://host:port"):
        Location("s3://bucket", endpoint)


def test_an_endpoint_that_carries_credentials_is_refused_without_showing_them():
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID") as caught:
        Location("s3://bucket", "https://me:secret@host")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("letter", "/?#\\")
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "address", ["http://me:12{}cret@proxy:3128", "me:open{}sesame@proxy", "http://me:p@ss{}w@proxy:1"]
)
def test_a_proxy_whose_password_would_be_asked_as_a_server_is_refused_without_showing_it(
    s3_keys, monkeypatch, letter, name, address
):
    monkeypatch.setenv(name, address.format(letter))
    s3.client.cache_clear()
    with pytest.raises(ConfigError, match=f"^got {name} in the environment [^\n]+ percent-encode it as %2F") as caught:
        Location("s3://bucket/a.jpg", "http://127.0.0.1:9").read_bytes()
    assert not any(part in caught.value.message for part in ("12", "cret", "open", "sesame", "p@", "me:"))


@pytest.mark.parametrize("address", ["http://me:pass%2Fword@127.0.0.1:9", "http://me:pass word@127.0.0.1:9/"])
def test_a_proxy_that_does_not_answer_is_told_without_its_password(s3_keys, monkeypatch, caplog, address):
    patience.be_patient(patience.Patience(total_s=3, longest_wait_s=0.1, told_after_s=0))
    monkeypatch.setattr(patience, "_told", patience._Told())
    monkeypatch.setenv("http_proxy", address)
    s3.client.cache_clear()
    with pytest.raises(StorageError, match="proxy") as caught:
        Location("s3://bucket/a.jpg", "http://s3.clinic.example:9").read_bytes()
    s3.client.cache_clear()
    (told,) = caplog.messages
    assert "waiting for the storage" in told
    assert not any(part in text for part in ("pass", "word@") for text in (told, caught.value.message))


def test_what_a_library_says_of_a_secret_is_masked_where_it_becomes_a_message_of_ours(s3_keys, monkeypatch):
    patience.be_patient(patience.Patience(total_s=0))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "wJalrXUtnFEMI\nK7MDENG")
    s3.client.cache_clear()
    with pytest.raises(StorageError, match=r"\*\*\*") as caught:
        Location("s3://bucket/a.jpg", "http://127.0.0.1:9").read_bytes()
    s3.client.cache_clear()
    assert not any(part in caught.value.message for part in ("wJalr", "K7MD"))
