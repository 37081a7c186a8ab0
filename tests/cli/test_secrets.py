"""No secret on a command line, or in the environment, reaches a person, a log or a file, in whatever form it comes."""

import dataclasses
import importlib
import json
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.dark_cells import darkness_model

from spermseg.cli import VERBS, main, run_verb
from spermseg.cli.segment import Segment
from spermseg.cli.terminal import OneLine, say
from spermseg.cli.verify import Verify
from spermseg.credentials import carries_credentials, secrets_among, without_secrets
from spermseg.errors import ConfigError, RunError
from spermseg.storage.filesystem import Location
from spermseg.storage.s3.backend import resolve_endpoint

MARK = "zqx"
"""No message has it, so where a part of a secret is shown, it is seen."""
SECRETS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20).map(
    lambda text: f"{MARK}{text}{MARK}"
)
SLASHES = [f"{MARK}/{MARK}", f"{MARK}@{MARK}", f"{MARK}?a=b#{MARK}", f"{MARK}\n{MARK}", f"{MARK}:{MARK}/", f" {MARK}"]
ENDPOINTS = (
    "https://key:{}@host:9000",
    "HTTP://key:{}@host/path",
    "key:{}@host:9000",
    "//key:{}@host",
    "{}@host",
    "https://{}@host",
    "https://host?X-Amz-Signature={}",
    "https://host/#{}",
    "https:/key:{}@host",
    "https://key:1/{}@host",
)
PLACES = (
    "https://key:{}@host/bucket",
    "https://key:1/{}@host/bucket",
    "s3://key:{}@bucket/uploads",
    "https://bucket.s3.amazonaws.com/a?X-Amz-Credential=AKIA&X-Amz-Signature={}",
    "s3://bucket/a?X-Amz-Expires=60&X-Amz-Security-Token={}",
    "https://account.blob.core.windows.net/a?sv=2024&sig={}",
    "key:{}@host",
    "https%3A%2F%2Fkey%3A{}%40host",
)


def commands(secret: str) -> list[list[str]]:
    """Return command lines that hold a secret, each in another place or form."""
    servers = [form.format(secret) for form in ENDPOINTS]
    places = [form.format(secret) for form in PLACES]
    return [
        *(["s3://bucket/a", "--out", "OUT", "--endpoint-url", server] for server in servers),
        *(["s3://bucket/a", "--out", "OUT", f"--endpoint-url={server}"] for server in servers),
        *([place, "--out", "OUT"] for place in places),
        *(["UPLOADS", "--out", "OUT", "--model", place] for place in places),
        *(["UPLOADS", "--out", place] for place in places),
        ["UPLOADS", "--out", "OUT", "--address", f"ray://key:{secret}@head:10001"],
        ["UPLOADS", "--out", "OUT", f"--secret-key={secret}"],
        ["UPLOADS", "--out", "OUT", "--aws-secret-access-key", secret],
        ["UPLOADS", "--out", "OUT", f"AWS_SECRET_ACCESS_KEY={secret}"],
    ]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SECRETS)
@example(SLASHES[0])
@example(SLASHES[2])
@example(SLASHES[3])
def test_a_secret_on_the_command_line_is_refused_in_one_line_that_does_not_repeat_it(tmp_path, capsys, secret):
    for words in commands(secret):
        words = [word.replace("OUT", str(tmp_path / "out")).replace("UPLOADS", str(tmp_path)) for word in words]
        with pytest.raises(SystemExit) as ended:
            run_verb(Segment, words)
        said = capsys.readouterr()
        assert ended.value.code == 2, words
        assert not said.out
        assert len(said.err.splitlines()) == 1, said.err
        assert MARK not in said.err, words
        assert "give credentials as AWS_ACCESS_KEY_ID" in said.err
    assert not list(tmp_path.iterdir())


@given(SECRETS)
@example(SLASHES[0])
@example(SLASHES[1])
@example(SLASHES[4])
@example(SLASHES[5])
def test_what_is_kept_of_a_command_line_holds_no_secret(secret):
    for words in commands(secret):
        kept = without_secrets(words)
        assert len(kept) == len(words)
        assert MARK not in json.dumps(kept), words


@pytest.mark.parametrize(
    "word",
    [
        "s3://clinic/ada@noon.png",
        "s3://clinic/a.zip?versionId=3",
        "s3://clinic/x://y@z",
        "s3://arn:aws:s3:eu-west-1:123:accesspoint/uploads",
        "http://127.0.0.1:9000",
        "https://s3.clinic/path",
        "http://[::1]:9000",
        "/data/10:30@lab",
        "./10:30@lab",
        "ada@noon.png",
        "uploads/key=5",
        r"(?P<name>clinic|lab)@(\d+)",
        r"(?:clinic|lab)@(\d+)",
        "--threshold=0.5",
        "file:///data/ada@noon",
        "patient-1/50%.png",
        "127.0.0.1:6379",
    ],
)
def test_what_is_harmless_is_kept_as_it_is(word):
    assert not carries_credentials(word)
    assert without_secrets([word]) == (word,)


def test_no_option_of_ours_is_taken_for_one_of_a_secret():
    for verb in VERBS:
        kind = getattr(importlib.import_module(f"spermseg.cli.{verb}"), verb.capitalize())
        for field in dataclasses.fields(kind):
            assert not secrets_among([f"--{field.name.replace('_', '-')}", "value"])


@given(SECRETS)
@example(SLASHES[0])
def test_an_endpoint_from_the_environment_with_credentials_is_refused_without_them(secret):
    for form in ENDPOINTS:
        if "\0" in form.format(secret):
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
            with pytest.raises(ConfigError) as given_one:
                resolve_endpoint(form.format(secret))
        assert MARK not in given_one.value.message


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("host:9000", "'host:9000'"),
        ("ftp://host", ""),
        ("http://", ""),
        ("http://host:port", ""),
        ("http://[::1", ""),
        ("http://ho st", ""),
        (f"AKIA:{MARK}", ""),
        (f"http://AKIA:{MARK}", ""),
        (f"http://host\n{MARK}", ""),
    ],
)
def test_an_endpoint_that_is_none_is_refused_and_shown_only_where_it_is_a_servers_name(endpoint, shown):
    with pytest.raises(ConfigError) as caught:
        resolve_endpoint(endpoint)
    assert shown in caught.value.message
    assert MARK not in caught.value.message
    assert "give http://host:port or https://host" in caught.value.message


def test_a_place_with_credentials_is_not_repeated_by_the_library_either():
    for form in PLACES[:4]:
        with pytest.raises(ConfigError) as caught:
            Location(form.format(f"{MARK}/{MARK}"))
        assert MARK not in caught.value.message


def test_uploads_may_be_called_anything():
    for name in ("key:secret@host", "a.png?token=5&sig=7", "x@y.png", "https://key:secret@host"):
        assert Location("s3://bucket/uploads").child(name).uri == f"s3://bucket/uploads/{name}"


@pytest.mark.parametrize("word", [f"key:{MARK}@host", f"https://key:{MARK}/x@host"])
def test_a_secret_in_the_place_of_the_verb_is_not_repeated(monkeypatch, capsys, word):
    monkeypatch.setattr(sys, "argv", ["spermseg", word])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr()
    assert MARK not in said.err + said.out


def test_what_a_library_says_of_the_secrets_of_the_environment_is_masked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{MARK}/secret+key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{MARK}token\n")

    def fail(self):
        raise RunError(f"Invalid header value b'{MARK}token\\n', signed with {MARK}/secret+key")

    monkeypatch.setattr(Verify, "run", fail)
    with pytest.raises(SystemExit):
        run_verb(Verify, [str(tmp_path)])
    say(f"{MARK}/secret+key")
    said = capsys.readouterr()
    record = logging.LogRecord("spermseg", logging.WARNING, "", 0, "token %s", (f"{MARK}token",), None)
    assert MARK not in said.err + said.out + OneLine().format(record)
    assert said.err == "spermseg: Invalid header value b'***\\n', signed with ***\n"


@pytest.mark.usefixtures("without_ray")
def test_lock_start_plan_and_receipt_hold_no_secret_of_the_environment(uploads, tmp_path, monkeypatch):
    """As where a script puts one into a name that no rule can tell from others."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{MARK}secret")
    model = tmp_path / "model.safetensors"
    model.write_bytes(darkness_model())
    words = [uploads.uri, "--model", str(model), "--out", str(tmp_path / "out"), "--max-megapixels", "1"]
    monkeypatch.setattr(sys, "argv", ["segment", *words, f"--ignored={MARK}secret"])
    with pytest.raises(SystemExit) as ended:
        run_verb(Segment, words)
    assert ended.value.code == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"receipt.json", "plan.parquet"} <= {path.name for path in files}
    assert not [path for path in files if MARK.encode() in path.read_bytes()]
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert set(modes.values()) == {0o600, 0o700}
    assert Path(tmp_path / "out").stat().st_mode & 0o777 == 0o700
