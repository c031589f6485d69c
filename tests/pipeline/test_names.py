"""Names that become folders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UnsafeNameError
from pipeline.names import MAX_NAME_LENGTH, check_name


@pytest.mark.parametrize("name", ["jhmdb12", "slow_r50-tgrad", "a.b", "1", "x+y", "A" * MAX_NAME_LENGTH])
def test_good_names_pass(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/b", "a\\b", "/abs", "-rf", ".hidden", "a b", "a\n", "ä", "a\x00", "zarr.json", "crops",
     "A" * (MAX_NAME_LENGTH + 1), "a:b", "~", "$HOME", "a%2e"],
)  # fmt: skip
def test_bad_names_are_refused_with_what_was_found(name):
    with pytest.raises(UnsafeNameError, match="expected a name"):
        check_name(name)


@given(st.text(max_size=40))
def test_whatever_passes_is_one_plain_path_component(name):
    try:
        check_name(name)
    except UnsafeNameError:
        return
    assert name.isascii()
    assert not set(name) & set("/\\\0 \n\t:")
    assert name not in (".", "..")
    assert not name.startswith((".", "-"))
