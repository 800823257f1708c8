"""Where the cache is, and what its entries are called."""

from pathlib import Path

import pytest

from polargrad.errors import DataError
from polargrad.language.data.cache import alone, cache_folder, digest_of_files, key_of


def test_the_cache_is_where_the_system_has_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches/polargrad"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / "home/.cache/polargrad"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/polargrad"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    assert (tmp_path / "given").is_dir()


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cache is '.*file/cache', which cannot be made: Not a"):
        cache_folder(tmp_path / "file/cache")


def test_an_entry_that_cannot_be_locked(tmp_path):
    found = pytest.raises(DataError, match=r"cannot write to the cache .*none': No such")
    with found, alone(tmp_path / "none" / "entry"):
        pass


def test_a_digest_knows_which_byte_is_in_which_file(tmp_path):
    digests = set()
    for first, second in (("ab", "c"), ("a", "bc"), ("", "abc"), ("ab", "d")):
        (tmp_path / "1").write_text(first)
        (tmp_path / "2").write_text(second)
        digests |= {digest_of_files(tmp_path, ["1", "2"]), digest_of_files(tmp_path, ["2", "1"])}
    assert len(digests) == 8
    with pytest.raises(DataError, match=r"cannot read '.*/3': No such file"):
        digest_of_files(tmp_path, ["3"])


def test_keys_tell_none_from_nothing():
    assert len({key_of("a", None), key_of("a", ""), key_of("a"), key_of("a", 0)}) == 4
