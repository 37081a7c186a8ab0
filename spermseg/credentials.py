"""Detection and masking of credentials (passwords, keys, signed URLs) in command lines, settings and messages.

Spermseg takes credentials only from the environment or from the files of the cloud provider. A command line is visible
in `ps`, in the history of shells and in the files of a run. A secret may hold any character, so URLs are parsed by the
rules of their scheme. If the parts of a URL are ambiguous, the whole URL is masked.
"""

import os
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

MASK = "***"
CREDENTIALS_ADVICE = "give credentials as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
SIGNING_WORDS = (
    *("signature", "credential", "token", "secret", "passw", "passphrase"),
    *("accesskey", "apikey", "privatekey", "authorization"),
)
"""Parts of the names of secret parameters. Only the letters and digits of a name are compared, in lower case."""
SIGNING_NAMES = ("sig", "auth", "key", "pwd", "pass")
"""Whole names of secret parameters."""
SERVER_OPTIONS = ("endpointurl", "address")
"""Options whose value is a server, so that an `@` in the value always follows a user."""
LOCAL_SCHEMES = ("s3", "file")
"""Schemes of URIs whose path may hold any character, `@`, `?` and `#` included."""
IN_ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "RAY_AUTH_TOKEN")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
ADDRESSES = ("RAY_ADDRESS", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", *PROXIES)
"""Environment variables that may hold the URL of a server, with a user and a password."""
SHORTEST = 6
"""Least length of a secret that is masked in messages. A shorter one may be part of a common word."""
_OF_A_USER = "._-+%$~="
_END_OF_SERVER = re.compile(r"[/?#\\]")
_PARAMETER = re.compile(r"[?&;#]([^?&;#=]*)=")


def carries_credentials(word: str) -> bool:
    """Whether a word of a command line, or a setting, has the form of credentials.

    >>> carries_credentials("https://key:se/cret@host"), carries_credentials("key:secret@host:9000")
    (True, True)
    >>> carries_credentials("s3://clinic/a.zip?X-Amz-Signature=f00"), carries_credentials("--secret-key=f00")
    (True, True)
    >>> carries_credentials("s3://clinic/ada@noon.png"), carries_credentials("http://127.0.0.1:9000")
    (False, False)
    """
    return any(_is_secret(one) for one in (word, unquote(word)))


def _is_secret(word: str) -> bool:
    option, value = _split_option(word)
    if option and (_names_secret(option) or _is_user_of_server(option, value)):
        return True
    scheme, is_url, rest = value.partition("://")
    if not is_url:
        return _is_user_and_password(value.removeprefix("//")) or _has_signing_parameter(value)
    if scheme.lower() in LOCAL_SCHEMES:
        return has_user(rest.partition("/")[0]) or _has_signing_parameter(value)
    return "@" in rest or "?" in rest or "#" in rest or not _has_port(value)


def has_user(bucket: str) -> bool:
    """Whether the text in place of a bucket name begins with a user. Bucket names have no `@`, and `:` only in ARNs.

    >>> has_user("key:se"), has_user("clinic"), has_user("arn:aws:s3:eu-west-1:123:accesspoint")
    (True, False, False)
    """
    return "@" in bucket or (":" in bucket and not bucket.startswith("arn:"))


def _is_user_and_password(value: str) -> bool:
    """Whether a word without a scheme is `user:password@server`. A folder of such a name can be given as `./NAME`."""
    user, found, rest = value.partition(":")
    return bool(found) and "@" in rest and all(letter.isalnum() or letter in _OF_A_USER for letter in user)


def _is_user_of_server(option: str, value: str) -> bool:
    return _letters(option) in SERVER_OPTIONS and "@" in value


def _split_option(word: str) -> tuple[str, str]:
    """Return (name, value) of `--name=value` and `NAME=value`. Any other word without a dash is a value."""
    name, found, value = word.partition("=")
    if word.startswith("-"):
        return (name, value) if found else (word, "")
    return (name, value) if found and name.replace("_", "").isalnum() and name.isupper() else ("", word)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _names_secret(name: str) -> bool:
    letters = _letters(name)
    return letters in SIGNING_NAMES or any(word in letters for word in SIGNING_WORDS)


def _has_signing_parameter(value: str) -> bool:
    return any(_names_secret(name) for name in _PARAMETER.findall(value))


def _has_port(url: str) -> bool:
    """Whether a URL has no port or a valid one. In `user:password` without a server, the password is no valid port."""
    try:
        urlsplit(url).port  # noqa: B018 (the property checks the port)
    except ValueError:
        return False
    return True


def masked(word: str) -> str:
    """Return a word with its credentials masked, including anything that may belong to them.

    >>> masked("--endpoint-url=https://key:se/cret@host"), masked("key:secret@host"), masked("s3://clinic/ada@noon.png")
    ('--endpoint-url=https://***', '***', 's3://clinic/ada@noon.png')
    """
    if not carries_credentials(word):
        return word
    option, value = _split_option(word)
    scheme, is_url, _ = value.partition("://")
    known = f"{scheme}://" if is_url and scheme.isalnum() else ""
    if option and not _names_secret(option):
        return f"{option}={known}{MASK}"
    return f"{known}{MASK}"


def secrets_among(words: Sequence[str]) -> dict[int, str]:
    """Return index -> name of the words with credentials. The name is the option of a word, or its position.

    >>> secrets_among(["segment", "--endpoint-url", "user@host", "--secret-key", "f00"])
    {2: '--endpoint-url', 3: 'word 4', 4: 'word 5'}
    """
    found = {}
    option = ""
    for number, word in enumerate(words):
        after = bool(option) and (_names_secret(option) or _is_user_of_server(option, word))
        if after or carries_credentials(word):
            found[number] = option if option and not _names_secret(option) else f"word {number + 1}"
        option = word if word.startswith("-") and "=" not in word else ""
    return found


def without_secrets(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a command line with credentials masked.

    >>> without_secrets(["--endpoint-url", "https://key:secret@s3.clinic", "s3://clinic/ada@noon.png"])
    ('--endpoint-url', 'https://***', 's3://clinic/ada@noon.png')
    """
    found = secrets_among(words)
    return tuple(
        without_environment(word if number not in found else masked(word) if carries_credentials(word) else MASK)
        for number, word in enumerate(words)
    )


def without_environment(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a text with the secrets of this process's environment masked. Libraries may have put them there.

    >>> without_environment("no header may hold wJalrX", {"AWS_SESSION_TOKEN": "wJalrX "})
    'no header may hold ***'
    >>> without_environment("no answer from ray://me:pass@head:1", {"RAY_ADDRESS": "ray://me:pass@head:1"})
    'no answer from ray://***'
    >>> without_environment("407 for me, pass word", {"HTTP_PROXY": "http://me:pass%20word@proxy:3128"})
    '407 for me, ***'
    """
    addresses = [address for address in map(environment.get, ADDRESSES) if address]
    for address in addresses:
        if carries_credentials(address):
            text = text.replace(address, masked(address))
    parts = [part for name in IN_ENVIRONMENT for part in environment.get(name, "").split()]
    parts += [spelt for address in addresses for spelt in _password_of(address)]
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SHORTEST:
            text = text.replace(part, MASK)
    return text


def _password_of(address: str) -> tuple[str, str]:
    """Return the password in a URL, as written and percent-decoded; empty if there is none."""
    password = _server(address).rpartition("@")[0].partition(":")[2]
    return password, unquote(password)


def _server(address: str) -> str:
    """Return a URL without its scheme, if it has one."""
    return address.partition("://")[2] or address


def misread_proxy(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of a proxy variable whose password has unescaped characters, or None.

    Other programs end the server of a URL at a slash, a backslash, a question mark or a number sign. With such a
    character in the password, they would take a part of the password for the server, and show it in messages.

    >>> misread_proxy({"HTTP_PROXY": "http://me:se/cret@proxy:3128"})
    'HTTP_PROXY'
    >>> misread_proxy({"HTTP_PROXY": "http://me:se%2Fcret@proxy:3128/", "HTTPS_PROXY": ""})
    """
    for name in PROXIES:
        server = _server(environment.get(name, ""))
        if "@" in server[len(_END_OF_SERVER.split(server, maxsplit=1)[0]) :]:
            return name
    return None
