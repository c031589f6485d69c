"""One choice of a device for every stage."""

import ast
from pathlib import Path

import pytest
import torch

from pipeline.compute.devices import pick_device
from pipeline.errors import InvalidInputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name",
    [
        "gpu",
        "mps",
        "meta",
        "xpu",
        "",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cpu:0",
        "cpu:",
        "auto:0",
        "CPU",
        "cuda:²",
        "cuda:0:1",
    ],
)
def test_what_is_no_device_is_named(name):
    with pytest.raises(InvalidInputError, match="expected a device auto, cpu, cuda or cuda:N, found"):
        pick_device(name)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(InvalidInputError, match="expected the device cuda:99, found"):
        pick_device("cuda:99")


def test_auto_is_the_gpu_where_there_is_one():
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


def test_it_is_chosen_in_one_place():
    """A second copy of the rule would accept other names."""
    found = []
    for package in ("extract", "aggregate", "probe", "flows"):
        for path in (ROOT / package).rglob("*.py"):
            names = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
            found += [path for name in names if name == "pick_device"]
    assert not found
