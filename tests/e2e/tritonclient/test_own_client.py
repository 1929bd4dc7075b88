"""ndserve's own client sends and gets texts in Triton's form, which `.npy` has no place for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ndserve import Client
from tests.e2e.running import RunningServer


@pytest.fixture(scope="module")
def own(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.mark.parametrize(
    "texts",
    [
        np.array(["", "déjà", "two\nlines"]),
        np.array([[b"a\0", b"\xff"]], object),
        np.array("one"),
        np.array([b"raw", b""]),
        np.array(["any", "length"], np.dtypes.StringDType()),
    ],
)
def test_texts_of_any_kind_come_back_as_bytes(own: Client, texts: np.ndarray) -> None:
    got = own.run("identity", texts)
    assert isinstance(got, np.ndarray)
    assert got.shape == texts.shape
    expected = [each.encode() if isinstance(each, str) else each for each in texts.reshape(-1).tolist()]
    assert got.reshape(-1).tolist() == expected


def test_no_texts_at_all_keep_their_shape(own: Client) -> None:
    got = own.run("identity", np.empty((0, 3), "U1"))
    assert isinstance(got, np.ndarray)
    assert got.shape == (0, 3)


def test_texts_go_to_a_model_by_the_name_of_its_input(own: Client) -> None:
    got = own.run("same_texts", {"x": np.array([["a", "b", "c"]])})
    assert isinstance(got, np.ndarray)
    assert got.tolist() == [[b"a", b"b", b"c"]]


def test_what_has_no_word_beside_texts_is_refused_before_it_is_sent(own: Client) -> None:
    with pytest.raises(TypeError, match="complex64"):
        own.run("identity", {"a": np.array(["x"]), "b": np.ones(1, np.complex64)})
