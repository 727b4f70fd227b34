"""What certificates rest on is kept whole or not at all, once, and within its bound."""

from __future__ import annotations

import os

import pytest

from opendt.orchestrator.certificate_store import CertificateStore


class Inputs:
    """As large as asked for."""

    def __init__(self, size=100, fails=False):
        self.size, self.fails, self.written = size, fails, 0

    def write(self, path):
        self.written += 1
        path.write_bytes(b"x" * self.size)
        if self.fails:
            raise OSError("no space left on device")


def kept(store):
    return sorted(path.name for path in store.directory.iterdir())


def test_it_is_kept_once_under_the_name_of_its_certificate(tmp_path):
    store, one = CertificateStore(tmp_path / "deep" / "dc", 1000), Inputs()
    store.keep("a", one)
    store.keep("a", one)
    assert one.written == 1
    assert kept(store) == ["a.inputs"]
    assert store.path("a").read_bytes() == b"x" * 100


def test_the_oldest_goes_when_there_is_no_room_and_the_newest_never(tmp_path):
    store = CertificateStore(tmp_path, 250)
    for number, name in enumerate("cab"):
        store.keep(name, Inputs())
        os.utime(store.path(name), ns=(number, number))
    store.keep("d", Inputs())
    assert kept(store) == ["b.inputs", "d.inputs"]
    store.keep("e", Inputs(9_000))
    assert kept(store) == ["e.inputs"]


def test_nothing_is_kept_where_nothing_shall_be(tmp_path):
    store = CertificateStore(tmp_path / "none", 0)
    store.keep("a", Inputs())
    assert not store.directory.exists()


def test_what_cannot_be_written_leaves_no_piece(tmp_path):
    store = CertificateStore(tmp_path, 250)
    store.keep("a", Inputs())
    with pytest.raises(OSError, match="no space"):
        store.keep("b", Inputs(fails=True))
    assert kept(store) == ["a.inputs"]
