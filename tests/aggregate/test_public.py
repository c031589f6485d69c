from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import aggregate

MODULES = sorted(m.name for m in pkgutil.walk_packages(aggregate.__path__, "aggregate."))


def test_the_public_names():
    assert aggregate.__all__ == [
        "MODEL_COLUMNS", "FeatureDataset", "ScaleModel", "TrainResult", "Whitening", "derive_geometry", "embed",
        "fit_whitening", "load_reference_state_dict", "make_spec", "pick_device", "train",
    ]  # fmt: skip
    assert all(getattr(aggregate, name).__doc__ for name in aggregate.__all__ if name != "MODEL_COLUMNS")


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_a_notebook_does_not_pay_for_the_store():
    code = (
        "import sys, aggregate; "
        "print(sorted(m for m in ('zarr', 'duckdb', 'pyarrow', 'prefect', 'faiss', 'av') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # pipeline.storage.schema speaks Arrow; nothing heavier may come along
    assert eval(done.stdout) in ([], ["pyarrow"])


def test_no_file_outgrows_its_idea():
    for path in Path(aggregate.__path__[0]).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
