"""The .npz reader: what numpy.savez writes, and archives made to do harm."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from ndserve.codecs.base import MAX_TENSORS, UNNAMED
from ndserve.codecs.npz import NpzCodec
from ndserve.errors import BodyTooLargeError, NotAcceptableError
from ndserve.types import Tensors
from tests.unit.codecs.bodies import LIMIT, npy_file, npy_header, refused, saved, zip_file

A = np.arange(3, dtype=np.int32)
B = np.ones((2, 2))
ENTRY, END, END_64 = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06"


def decode(body: bytes, limit: int = LIMIT) -> Tensors:
    return NpzCodec().decode(body, (), limit)


def patched(body: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """`body` with `value` written `offset` bytes after the last `signature`."""
    at = body.rindex(signature) + offset
    return body[:at] + value + body[at + len(value) :]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(save: Callable[..., None]) -> None:
    buffer = io.BytesIO()
    save(buffer, a=A, b=B)
    decoded = decode(buffer.getvalue())
    assert decoded.keys() == {"a", "b"}
    np.testing.assert_array_equal(decoded["a"], A)
    np.testing.assert_array_equal(decoded["b"], B)


def test_numpy_reads_what_is_written() -> None:
    (body,) = NpzCodec().encode({"a": A, "b": B}).chunks
    with np.load(io.BytesIO(body)) as archive:
        np.testing.assert_array_equal(archive["a"], A)
        np.testing.assert_array_equal(archive["b"], B)


@pytest.mark.parametrize("name", ["file", "args", "kwds", "allow_pickle", "self"])
def test_a_name_that_savez_keeps_for_itself_is_a_name_like_any_other(name: str) -> None:
    (body,) = NpzCodec().encode({name: A, "b": B}).chunks
    decoded = decode(bytes(body))
    assert decoded.keys() == {name, "b"}
    np.testing.assert_array_equal(decoded[name], A)


def test_a_lone_positional_array_has_no_name() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, A)
    assert decode(buffer.getvalue()).keys() == {UNNAMED}


def test_several_positional_arrays_keep_their_names() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, A, B)
    assert decode(buffer.getvalue()).keys() == {"arr_0", "arr_1"}


def test_a_bomb_is_refused_while_it_inflates() -> None:
    body = zip_file([("a.npy", saved(np.zeros(16 << 20, np.uint8)))], zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLargeError, match=f"more than {LIMIT} bytes"):
            decode(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


def test_members_count_together() -> None:
    member = saved(np.zeros(LIMIT // 2 + 1, np.uint8))
    body = zip_file([("a.npy", member), ("b.npy", member)], zipfile.ZIP_DEFLATED)
    with pytest.raises(BodyTooLargeError):
        decode(body)


def test_a_directory_that_understates_a_bomb_does_not_let_it_through() -> None:
    body = zip_file([("a.npy", saved(np.zeros(16 << 20, np.uint8)))], zipfile.ZIP_DEFLATED)
    refused(lambda: decode(patched(body, ENTRY, 24, struct.pack("<L", 200))))


def test_a_member_that_comes_twice_is_refused_by_name() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        body = zip_file([("a.npy", saved(A)), ("a.npy", saved(A))])
    refused(lambda: decode(body), "'a.npy'.* comes twice")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.npy/", "a.NPY"])
def test_a_member_that_is_no_npy_file_is_refused_by_name(name: str) -> None:
    body = zip_file([("b.npy", saved(B)), (name, b"" if name.endswith("/") else saved(A))])
    refused(lambda: decode(body), f"'{name}' is not a .npy file")


def test_a_member_whose_content_is_no_npy_file_is_refused() -> None:
    refused(lambda: decode(zip_file([("a.npy", b"hello")])), "does not begin as a .npy file")


def test_an_encrypted_member_is_refused() -> None:
    body = patched(patched(zip_file([("a.npy", saved(A))]), ENTRY, 8, b"\x01"), b"PK\x03\x04", 6, b"\x01")
    refused(lambda: decode(body), "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused_with_the_one_that_is_read(method: int) -> None:
    body = zip_file([("a.npy", saved(np.zeros(1000)))], method)
    refused(lambda: decode(body), "deflate")


def test_an_unknown_compression_is_refused() -> None:
    body = patched(zip_file([("a.npy", saved(A))]), ENTRY, 10, b"\x5d\x00")
    refused(lambda: decode(body), "deflate")


def test_as_many_members_as_the_bound_are_read() -> None:
    body = zip_file([(f"{number}.npy", saved(A)) for number in range(MAX_TENSORS)])
    assert len(decode(body)) == MAX_TENSORS


def test_one_member_over_the_bound_is_refused() -> None:
    body = zip_file([(f"{number}.npy", saved(A)) for number in range(MAX_TENSORS + 1)])
    refused(lambda: decode(body), f"{MAX_TENSORS + 1} members; 1 to {MAX_TENSORS}")


def test_an_archive_without_members_is_refused() -> None:
    refused(lambda: decode(zip_file([])), "0 members")


def with_directory(entries: bytes, count: int) -> bytes:
    """An archive of one member whose directory is `entries`."""
    body = zip_file([("a.npy", saved(A))])
    start = body.rindex(ENTRY)
    end = struct.pack("<4s4H2LH", END, 0, 0, count & 0xFFFF, count & 0xFFFF, len(entries), start, 0)
    return body[:start] + entries + end


def directory_entry() -> bytes:
    body = zip_file([("a.npy", saved(A))])
    return body[body.rindex(ENTRY) : body.rindex(END)]


def test_the_hand_made_directory_is_a_true_one() -> None:
    assert decode(with_directory(directory_entry(), 1)).keys() == {"a"}


def test_a_directory_of_a_hundred_thousand_members_is_refused_unread() -> None:
    body = with_directory(directory_entry() * 100_000, 100_000)
    refused(lambda: decode(body), "too many members")  # an object for each of them would take tens of MB


def test_the_64_bit_directory_is_refused() -> None:
    entries = directory_entry() * 2
    start = zip_file([("a.npy", saved(A))]).rindex(ENTRY)
    head = with_directory(entries, 2)[: start + len(entries)]
    end_64 = struct.pack("<4sQ2H2L4Q", END_64, 44, 45, 45, 0, 0, 2, 2, len(entries), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(head), 1)
    body = head + end_64 + locator + struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0, 0xFFFFFFFF, 0)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert len(archive.infolist()) == 2  # the short end record says 0 bytes, the long one tells the truth
    refused(lambda: decode(body), "64-bit directory")


def test_a_member_beyond_any_file_is_refused() -> None:
    entry = bytearray(directory_entry())
    entry[42:46] = b"\xff" * 4  # the offset is in the extra field, as 64 bits
    entry[30:32] = struct.pack("<H", 12)
    body = with_directory(bytes(entry) + struct.pack("<HHQ", 1, 8, 2**64 - 1), 1)
    refused(lambda: decode(body))


def test_an_archive_cut_off_anywhere_is_refused() -> None:
    body = zip_file([("a.npy", saved(A)), ("b.npy", saved(B))], zipfile.ZIP_DEFLATED)
    for length in range(len(body)):
        refused(lambda length=length: decode(body[:length]))  # type: ignore[misc]


def test_an_archive_without_its_end_is_named_as_cut_off() -> None:
    refused(lambda: decode(zip_file([("a.npy", saved(A))])[:-22]), "cut off")


def test_an_archive_with_a_comment_is_read() -> None:
    buffer = io.BytesIO(zip_file([("a.npy", saved(A))]))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"written by hand" * 4000
    assert decode(buffer.getvalue()).keys() == {"a"}


def test_damaged_values_do_not_pass_the_checksum() -> None:
    body = bytearray(zip_file([("a.npy", saved(A))]))
    body[body.index(A.tobytes())] ^= 1
    refused(lambda: decode(bytes(body)), "cannot be read")


def test_a_member_with_a_huge_shape_is_refused_before_anything_is_allocated() -> None:
    body = zip_file([("a.npy", npy_file(npy_header(shape=f"({2**40},)"), bytes(8)))])
    refused(lambda: decode(body))


@pytest.mark.parametrize("shape", [f"(0, {2**62})", f"({2**100}, 0)"])
def test_a_member_with_a_huge_shape_without_values_is_refused(shape: str) -> None:
    refused(lambda: decode(zip_file([("a.npy", npy_file(npy_header(shape=shape)))])))


@pytest.mark.parametrize("comment", [0, 65_535])
def test_the_64_bit_directory_is_found_behind_any_comment(comment: int) -> None:
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0, 0xFFFFFFFF, comment)
    body = zip_file([("a.npy", saved(A))]) + locator + end + bytes(comment)
    refused(lambda: decode(body), "64-bit directory")


def test_bytes_in_front_of_an_archive_are_refused() -> None:
    refused(lambda: decode(b"#!" + zip_file([("a.npy", saved(A))])), "does not begin as a .npz")


@pytest.mark.parametrize(
    "name", ["a/b", "/", "..", "../../etc/passwd", "a\\b", "", " ", "a.npy", "a\n", "é", "x" * 300]
)
def test_an_odd_name_comes_back_as_it_went(name: str) -> None:
    (body,) = NpzCodec().encode({name: A, "b": B}).chunks
    assert decode(bytes(body)).keys() == {name, "b"}


def test_a_name_that_would_be_cut_is_not_written() -> None:
    with pytest.raises(NotAcceptableError, match="name"):
        NpzCodec().encode({"a\0b": A})


def test_a_name_that_would_be_cut_is_not_read() -> None:
    body = zip_file([("a.npyXb.npy", saved(A))]).replace(b"a.npyXb", b"a.npy\0b")
    refused(lambda: decode(body), "is not a .npy file")


@pytest.mark.parametrize("content", [b"hello", npy_file(npy_header("'|O'")), saved(B)[:-1]])
def test_a_fault_names_its_member(content: bytes) -> None:
    refused(lambda: decode(zip_file([("good.npy", saved(A)), ("bad.npy", content)])), "member 'bad.npy': ")


def test_damage_names_its_member() -> None:
    body = bytearray(zip_file([("good.npy", saved(A)), ("bad.npy", saved(B))], zipfile.ZIP_DEFLATED))
    body[body.index(b"bad.npy") + 10] ^= 0xFF
    refused(lambda: decode(bytes(body)), "member 'bad.npy': the archive cannot be read")


def test_a_long_name_is_not_echoed_whole() -> None:
    assert len(refused(lambda: decode(zip_file([("x" * 60_000, saved(A))])))) < 500


def test_members_of_just_the_limit_together_are_read() -> None:
    body = zip_file([("a.npy", saved(A)), ("b.npy", saved(B))], zipfile.ZIP_DEFLATED)
    assert decode(body, A.nbytes + B.nbytes).keys() == {"a", "b"}
    with pytest.raises(BodyTooLargeError):
        decode(body, A.nbytes + B.nbytes - 1)
