"""Files and folders of the local disk that are all there or not there."""

import pytest

from pipeline.storage.whole_file import whole_file, whole_folder


def test_a_folder_appears_whole_and_replaces_the_one_before(tmp_path):
    target = tmp_path / "made" / "step-1"
    for content in ("one", "two"):
        with whole_folder(target) as partial:
            (partial / "in").mkdir()
            (partial / "in" / "file").write_text(content)
            assert not target.exists() or (target / "in" / "file").read_text() == "one"
        assert (target / "in" / "file").read_text() == content
    assert [p.name for p in target.parent.iterdir()] == ["step-1"]


def test_where_writing_fails_what_was_there_stays_and_nothing_else(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    with whole_folder(folder) as partial:
        (partial / "kept").touch()
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as partial:
        (partial / "half").write_text(str(1 / 0))
    with whole_file(file) as partial:
        partial.write_text("kept")
    with pytest.raises(ZeroDivisionError), whole_file(file) as partial:
        partial.write_text(str(1 / 0))
    assert {p.name for p in tmp_path.rglob("*")} == {"folder", "kept", "file"}
    assert file.read_text() == "kept"
