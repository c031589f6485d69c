"""What methods say beside accuracy: a section each in memory, flat and as ever in what is stored."""

import json

import pytest
from pydantic import ValidationError

from probe.found import Found, NeighboursFound, OtherFound, RetrievalFound, TrainingFound
from probe.results import STORED, ProbeResult

CORE = {
    "id": "x", "dataset": "d", "split": "1", "crops": "c", "feature_set": "f", "readout": "mean", "num_crops": 4,
    "protocol": "p", "top1": 0.5, "interval": [0.25, 0.75], "used": 4, "excluded": 0, "top1_excluded_wrong": 0.5,
    "num_train": 8, "num_classes": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("probe", "said", "section"),
    [
        ("knn", {"k": 20, "k_used": 12, "temperature": 0.07, "centring": "train"}, NeighboursFound),
        ("retrieval", {"recall": {"1": 0.5}, "recall_interval": {"1": [0.25, 0.75]}}, RetrievalFound),
        ("mlp", {"fraction": 0.25, "selected": {"epoch": 3}, "chosen_on": "held out"}, TrainingFound),
        ("ours", {}, Found),
        ("ours", {"k": 3, "temperature": 0.1}, NeighboursFound),
        ("ours", {"k": 3, "heldout_top1": 0.5}, OtherFound),
        ("knn", {"k": 3, "chosen_on": "somewhere"}, OtherFound),
    ],
)  # fmt: skip
def test_what_is_stored_becomes_a_section_and_is_stored_the_same(probe, said, section):
    result = ProbeResult.model_validate_json(json.dumps({**CORE, "probe": probe, **said}))
    assert type(result.found) is section
    stored = json.loads(result.model_dump_json())
    assert {name: stored[name] for name in said} == said
    assert list(stored) == list(STORED)
    assert stored == result.model_dump(mode="json")
    again = ProbeResult.model_validate(stored)
    assert again == result
    assert again.model_dump_json() == result.model_dump_json()


def test_a_method_says_only_what_is_its_own():
    with pytest.raises(ValidationError, match="Extra inputs"):
        NeighboursFound(k=3, chosen_on="somewhere")
    result = ProbeResult(**CORE, probe="linear", found=TrainingFound(fraction=0.5))
    assert result.said("fraction") == 0.5
    assert result.said("k") is None
    assert result.said("recall") == {}
    assert result.line()["fraction"] == 0.5
    assert result.line()["k"] is None


def test_figures_come_last_and_only_where_there_are_some():
    plain, rich = (ProbeResult(**CORE, probe="ours", figures=figures) for figures in ({}, {"margin": 1.0}))
    assert "figures" not in plain.model_dump()
    assert list(rich.model_dump())[-1] == "figures"
