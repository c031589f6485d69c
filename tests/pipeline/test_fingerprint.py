"""Fingerprints: canonical, and able to say how two of them differ."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FingerprintMismatchError
from pipeline.fingerprint import check_same, differing_fields, fingerprint, flatten, hash_file

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_key_order_does_not_matter(content):
    assert fingerprint(content) == fingerprint(dict(reversed(content.items())))


@given(st.dictionaries(st.text("abc", max_size=3), st.integers(), max_size=4), st.integers())
def test_any_change_changes_it(content, value):
    changed = {**content, "new": value}
    assert fingerprint(changed) != fingerprint(content)
    assert set(differing_fields(content, changed)) == {"new"}


def test_nan_has_no_canonical_form():
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})


def test_flatten_names_nested_fields():
    assert flatten({"decoder": {"name": "pyav", "version": "18"}, "dtype": "float16", "x": {}}) == {
        "decoder.name": "pyav",
        "decoder.version": "18",
        "dtype": "float16",
        "x": {},
    }


STORED = {"backbone": "x3d_xs", "decoder": {"name": "pyav", "version": "18.0"}, "dtype": "float16"}
OFFERED = {"backbone": "x3d_xs", "decoder": {"name": "pyav", "version": "18.1"}, "dtype": "float16"}


def test_the_gate_names_the_field_and_both_values():
    with pytest.raises(FingerprintMismatchError, match=r"decoder\.version: stored '18.0', offered '18.1'") as caught:
        check_same(STORED, OFFERED, what="feature set a/b")
    assert caught.value.fields == ("decoder.version",)


@pytest.mark.parametrize("accept", [["decoder.version"], ["decoder"]])
def test_accepted_fields_may_differ_and_are_returned(accept):
    assert check_same(STORED, OFFERED, what="x", accept=accept) == {"decoder.version": ("18.0", "18.1")}


def test_a_prefix_that_is_no_path_does_not_open_the_gate():
    with pytest.raises(FingerprintMismatchError):
        check_same(STORED, OFFERED, what="x", accept=["decoder.vers", "dec"])


def test_file_hash(tmp_path):
    path = tmp_path / "weights.bin"
    content = bytes(range(256)) * 9000
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert hash_file(path) == digest
