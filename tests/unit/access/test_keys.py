"""Keys: which header lets whom in, and what is wrong with a file."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

import pytest

from ndserve.access import Key, KeyFile, Role, new_key
from ndserve.access.keys import MAX_FILE
from ndserve.errors import InvalidParameterError, StartupError

SECRET = "nds_" + "s" * 43
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
LINE = f"alice sha256:{DIGEST} manage\n"
OTHER = "bob sha256:" + "0" * 64 + " infer\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


def keys_of(path: Path, text: str) -> KeyFile:
    path.write_text(text)
    keys = KeyFile(path)
    keys.load()
    return keys


def fault(path: Path, text: str) -> str:
    with pytest.raises(StartupError) as raised:
        keys_of(path, text)
    return raised.value.message


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  "])
def test_a_key_is_found_by_its_secret_with_the_scheme_in_any_case(path: Path, scheme: str) -> None:
    found = keys_of(path, OTHER + LINE).find(f"{scheme} {SECRET}".encode())
    assert found == Key("alice", bytes.fromhex(DIGEST), Role.MANAGE)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        SECRET,
        f"Bearer{SECRET}",
        f"Basic {SECRET}",
        f"Token {SECRET}",
        f"Bearer\t{SECRET}",
        f"Bearer {SECRET}x",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET.upper()}",
        f"Bearer {DIGEST}",
        f"Bearer {SECRET} {SECRET}",
        f"Bearer {SECRET}, Bearer {SECRET}",
        f'Bearer "{SECRET}"',
    ],
)
def test_what_is_no_key_in_force_finds_none(path: Path, header: str) -> None:
    assert keys_of(path, LINE).find(header.encode()) is None


def test_a_digest_that_only_begins_as_the_callers_does_not_let_it_in(path: Path) -> None:
    keys = keys_of(path, f"alice sha256:{DIGEST[:16]}{'0' * 48} manage\n")
    assert keys.find(f"Bearer {SECRET}".encode()) is None


@pytest.mark.parametrize("secret", [SECRET, "unknown"])
def test_whole_digests_are_compared_in_constant_time_whether_there_is_a_candidate_or_not(
    path: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_of(path, LINE)
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def noted(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    keys.find(f"Bearer {secret}".encode())
    assert compared == [(32, 32)]


def test_comments_empty_lines_and_blanks_are_overlooked(path: Path) -> None:
    text = f"# who\n\n  \t\r\n  alice\t sha256:{DIGEST.upper()}   infer  # since May\r\n{OTHER}"
    assert len(keys_of(path, text)) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alice\n", ":1: 1 words"),
        (f"{LINE}\n{OTHER.strip()} more\n", ":3: 4 words"),
        (f"#\nalice md5:{DIGEST} infer\n", ":2: the second of its words"),
        ("alice sha256:12ab infer\n", "of 11 characters, is not sha256: and 64 hexadecimal digits"),
        (f"alice sha256:{DIGEST}00 infer\n", "of 73 characters"),
        (f"al!ce sha256:{DIGEST} infer\n", ":1: the name 'al!ce'"),
        (f"alice sha256:{DIGEST} admin\n", "the role 'admin' is neither infer nor manage"),
        (f"alice sha256:{DIGEST} Manage\n", "the role 'Manage'"),
        (LINE + OTHER.replace("bob", "alice"), ":2: the name 'alice' is that of line 1 already"),
        (LINE + LINE.replace("alice", "bob"), ":2: this digest is that of line 1 already"),
        ("", "nobody could get in"),
        ("# alice\n\n", "nobody could get in"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(path: Path, text: str, words: str) -> None:
    message = fault(path, text)
    assert message.startswith(f"{path}:")
    assert words in message


@pytest.mark.parametrize("text", [f"alice {SECRET} infer", f"alice infer {SECRET}", f"{SECRET} alice", SECRET])
def test_a_secret_in_the_wrong_place_is_not_repeated(path: Path, text: str) -> None:
    assert SECRET[4:] not in fault(path, text)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(StartupError, match=r"keys\.txt: No such file"):
        KeyFile(path).load()


def test_a_folder_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="Is a directory"):
        KeyFile(tmp_path).load()


def test_bytes_that_are_no_text_are_named_with_their_line(path: Path) -> None:
    path.write_bytes(LINE.encode() + b"\xff\xfe\n")
    with pytest.raises(StartupError, match=r"keys\.txt:2: it is not UTF-8"):
        KeyFile(path).load()


def test_a_file_that_has_no_end_is_not_read_to_it(path: Path) -> None:
    assert str(MAX_FILE) in fault(path, "#" * (MAX_FILE + 1))


def test_a_file_that_others_can_write_to_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(LINE)
    path.chmod(0o666)
    KeyFile(path).load()
    assert "every user of this machine can write to it" in caplog.text


def test_a_file_that_others_can_read_is_not_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(LINE)
    path.chmod(0o644)
    KeyFile(path).load()
    assert caplog.text == ""


def test_a_reload_lets_new_keys_in_and_revoked_ones_no_more(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = keys_of(path, LINE)
    secret, line = new_key("carol", Role.INFER)
    path.write_text(OTHER + line)
    keys.reload()
    assert keys.find(f"Bearer {SECRET}".encode()) is None
    assert keys.find(f"Bearer {secret}".encode()) is not None
    assert "keys in force: 2 (2 new, 1 gone)" in caplog.text


@pytest.mark.parametrize("text", ["alice\n", "", LINE + LINE])
def test_a_reload_of_a_bad_file_leaves_the_keys_in_force_and_logs_an_error(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = keys_of(path, LINE)
    path.write_text(text)
    keys.reload()
    assert keys.find(f"Bearer {SECRET}".encode()) is not None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "the keys read before (1) stay in force" in record.getMessage()


@pytest.mark.parametrize("role", list(Role))
def test_a_new_key_is_let_in_by_its_line(path: Path, role: Role) -> None:
    secret, line = new_key("a.b-c_1", role)
    found = keys_of(path, line).find(f"Bearer {secret}".encode())
    assert found is not None
    assert (found.name, found.role) == ("a.b-c_1", role)


def test_a_new_key_has_256_random_bits_and_its_line_none_of_them() -> None:
    secret, line = new_key("alice", Role.INFER)
    assert (secret[:4], len(secret)) == ("nds_", 4 + 43)
    assert secret != new_key("alice", Role.INFER)[0]
    assert secret[4:] not in line


@pytest.mark.parametrize("name", ["", "a b", "ä", "a/b", "#a", "a\n"])
def test_a_name_that_no_file_can_hold_gets_no_key(name: str) -> None:
    with pytest.raises(InvalidParameterError, match="no name of a key"):
        new_key(name, Role.INFER)
