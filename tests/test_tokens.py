"""Access tokens in the store, and `fakeface token`."""

import re
import sqlite3

import pytest

from fakeface_jax.cli.main import main
from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.database import StoreError
from fakeface_jax.server.storage.store import Store
from fakeface_jax.server.storage.tokens import TokenLimits


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with Store(tmp_path / "state", clock=clock) as store:
        yield store


def test_a_secret_opens_and_only_its_hash_is_stored(store):
    limits = TokenLimits(requests_per_minute=7, waiting_jobs=2, bytes_per_day=10**12)
    assert not store.has_tokens()
    secret = store.tokens.create("newsroom", limits)
    assert re.fullmatch(r"ff_[A-Za-z0-9_-]{43}", secret)
    token = store.authenticate(secret)
    assert (token.name, token.requests_per_minute, token.waiting_jobs) == ("newsroom", 7, 2)
    assert token.bytes_per_day == 10**12
    assert store.has_tokens()
    for file in store.directory.glob("state.sqlite3*"):
        content = file.read_bytes()
        assert secret.encode() not in content
        assert secret[3:].encode() not in content


@pytest.mark.parametrize("change", [str.upper, lambda s: s[:-1], lambda s: s + "A", lambda s: "", lambda s: "\udcff"])
def test_other_secrets_do_not(store, change):
    secret = store.tokens.create("a")
    assert store.authenticate(change(secret)) is None


def test_secrets_differ(store):
    assert len({store.tokens.create(f"t{number}") for number in range(20)}) == 20


def test_a_revoked_token_is_worthless_and_does_not_open_the_service(store, clock):
    secret = store.tokens.create("a")
    clock.now += 5
    store.tokens.revoke("a")
    assert store.authenticate(secret) is None
    assert store.has_tokens()
    clock.now += 5
    store.tokens.revoke("a")
    (token,) = store.tokens.all()
    assert token.revoked == clock.now - 5
    with pytest.raises(ConfigError, match="there is none"):
        store.tokens.revoke("b")


def test_a_name_is_given_once(store):
    """Jobs belong to names: who got the name of a revoked token would see them."""
    store.tokens.create("a")
    with pytest.raises(ConfigError, match="there is or was one"):
        store.tokens.create("a")
    store.tokens.revoke("a")
    with pytest.raises(ConfigError, match="there is or was one"):
        store.tokens.create("a")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", "a" * 65, "a\x00"])
def test_names_are_plain(store, name):
    with pytest.raises(ConfigError, match="1 to 64 letters"):
        store.tokens.create(name)


@pytest.mark.parametrize("field", ["requests_per_minute", "waiting_jobs", "bytes_per_day"])
def test_limits_are_above_zero_and_fit_the_store(field):
    for value in (0, -1, 2**62):
        with pytest.raises(ConfigError, match=field):
            TokenLimits(**{field: value})


def test_use_is_noted_once_a_minute(store, clock, monkeypatch):
    secret = store.tokens.create("a")
    assert store.authenticate(secret).last_used is None
    first = clock.now
    clock.now += 59
    store.authenticate(secret)
    assert store.tokens.all()[0].last_used == first
    clock.now += 1
    store.authenticate(secret)
    assert store.tokens.all()[0].last_used == clock.now
    clock.now -= 3600  # a clock that was put right
    store.authenticate(secret)
    assert store.tokens.all()[0].last_used == clock.now


def test_who_is_known_gets_in_also_when_the_disk_is_full(store, monkeypatch):
    secret = store.tokens.create("a")

    def full(self):
        raise StoreError("disk full")

    monkeypatch.setattr("fakeface_jax.server.storage.database.Database.writing", full)
    assert store.authenticate(secret).name == "a"


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAKEFACE_STATE", str(tmp_path / "state"))
    assert main(["token", "list"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "token create NAME" in err

    assert main(["token", "create", "newsroom", "--waiting-jobs", "3", "--bytes-per-day", "5e9"]) == 0
    out, err = capsys.readouterr()
    secret = out.strip()
    assert out == f"{secret}\n"  # nothing else on stdout, for scripts
    assert secret not in err
    with Store(tmp_path / "state") as store:
        token = store.authenticate(secret)
    assert (token.name, token.waiting_jobs, token.bytes_per_day) == ("newsroom", 3, 5 * 10**9)

    assert main(["token", "list", "--state", str(tmp_path / "state")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^newsroom +20\d\d-\d\d-\d\d \d\d:\d\d +20.* 120 +3 +5 +-$", out, re.MULTILINE)
    assert secret not in out

    assert main(["token", "revoke", "newsroom"]) == 0
    with Store(tmp_path / "state") as store:
        assert store.authenticate(secret) is None
    assert main(["token", "list"]) == 0
    assert re.search(r"^newsroom .* 5 +20\d\d-\d\d-\d\d \d\d:\d\d$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    "words",
    [
        ["create", "a b"],
        ["create", "a", "--bytes-per-day", "inf"],
        ["create", "a", "--bytes-per-day", "0"],
        ["create", "a", "--requests-per-minute", "0"],
        ["revoke", "nobody"],
    ],
)
def test_wrong_words_are_a_line_and_a_code(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setenv("FAKEFACE_STATE", str(tmp_path / "state"))
    assert main(["token", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fakeface: ")
    assert err.count("\n") == 1


def test_a_running_service_sees_tokens_that_the_command_makes(store, capsys):
    with store.exclusive():
        assert main(["token", "create", "late", "--state", str(store.directory)]) == 0
        secret = capsys.readouterr().out.strip()
        assert store.authenticate(secret).name == "late"
        assert main(["token", "revoke", "late", "--state", str(store.directory)]) == 0
        assert store.authenticate(secret) is None


def test_secrets_are_found_by_an_index(store):
    connection = sqlite3.connect(store.directory / "state.sqlite3")
    plan = connection.execute("EXPLAIN QUERY PLAN SELECT * FROM tokens WHERE secret_sha256 = 'x'").fetchall()
    connection.close()
    assert "USING INDEX" in plan[0][3]
