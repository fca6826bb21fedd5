"""Secrets are hidden wherever a config leaves the process, and nothing else is."""

from __future__ import annotations

import pytest

from frameworm.config import conceal, redact, redact_text, resolve
from frameworm.errors import ConfigError


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "db_password",
        "PGPASSWORD",
        "passwd",
        "passphrase",
        "pwd",
        "db_pass",
        "secret",
        "client-secret",
        "clientSecret",
        "token",
        "hf_token",
        "accessToken",
        "api_key",
        "apikey",
        "X-Api-Key",
        "APIKey",
        "access_key",
        "aws_secret_access_key",
        "private_key",
        "credentials",
        "Authorization",
    ],
)
def test_values_under_secret_keys_are_hidden(key: str) -> None:
    """A key that looks like a secret's hides its value, at any depth."""
    assert redact({"a": [{key: "x"}]}) == {"a": [{key: "***"}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 512),
        ("tokenizer", "bpe"),
        ("num_token", 512),
        ("pad_token", "[PAD]"),
        ("single_pass", True),
        ("bypass", "x"),
        ("key", "x"),
        ("keys", ["x"]),
        ("monitor", "val_loss"),
        ("password", None),
        ("password", ""),
        ("use_secret", False),
        ("secretary", "x"),
    ],
)
def test_other_values_stay(key: str, value: object) -> None:
    """Sizes, vocabularies, switches and empty values are no secrets."""
    assert redact({key: value}) == {key: value}


@pytest.mark.parametrize("value", [1234, 1.5, ["a", "b"], {"user": "a", "file": "b"}])
def test_a_secret_of_any_type_is_hidden_whole(value: object) -> None:
    """A number, a list or a mapping under a secret key is hidden too."""
    assert redact({"credentials": value}) == {"credentials": "***"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://user:pw@host/db", "postgres://user:***@host/db"),
        ("redis://:pw@host", "redis://:***@host"),
        ("see http://u:p@ss@h/x and ftp://a:b@c", "see http://u:***@h/x and ftp://a:***@c"),
        ("https://host/hook?a=1&api_key=xyz&b=2#c", "https://host/hook?a=1&api_key=***&b=2#c"),
        ("https://host?X-Amz-Signature=ab", "https://host?X-Amz-Signature=***"),
        ("postgres://u:${env:PW}@host", "postgres://u:${env:PW}@host"),
        ("postgres://${env:U}:${env:PW}@host", "postgres://${env:U}:${env:PW}@host"),
        ("postgres://${env:U}:pw@host", "postgres://${env:U}:***@host"),
        ("http://localhost:5000/a@b", "http://localhost:5000/a@b"),
        ("ssh://git@host:22/x", "ssh://git@host:22/x"),
        ("a:b@c", "a:b@c"),
    ],
)
def test_passwords_in_uris(text: str, shown: str) -> None:
    """Passwords and tokens inside URIs are hidden, the rest of the URI stays."""
    assert redact_text(text) == shown
    assert redact({"uri": [text]}) == {"uri": [shown]}


def test_a_reference_to_the_environment_is_no_secret() -> None:
    """`${env:NAME}` stays, so that a stored config can be used again."""
    assert redact({"token": "${env:TOKEN}"}) == {"token": "${env:TOKEN}"}
    assert redact({"token": "x${env:TOKEN}"}) == {"token": "***"}


def test_what_is_concealed_can_be_had_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets go into variables, references and all other values stay; with the variables it is as it was."""
    options = {
        "api_key": "abc",
        "uri": "postgresql://me:pass@host/db",
        "token": "${env:HERS}",
        "retries": 3,
        "more": [{"password": "x"}],
    }
    concealed, variables = conceal(options)
    assert concealed == {
        "api_key": "${env:FRAMEWORM_SECRET_1}",
        "uri": "${env:FRAMEWORM_SECRET_2}",
        "token": "${env:HERS}",
        "retries": 3,
        "more": [{"password": "${env:FRAMEWORM_SECRET_3}"}],
    }
    for name, value in {**variables, "HERS": "hers"}.items():
        monkeypatch.setenv(name, value)
    assert resolve(concealed, "a file") == {**options, "token": "hers"}
    monkeypatch.delenv("HERS")
    with pytest.raises(ConfigError, match="'HERS', which is not set"):
        resolve(concealed, "a file")
