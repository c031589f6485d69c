"""What a report calls undone."""

import pytest

from pipeline.reports import SkippedVideo, StageReport, doubts_of

BAD = SkippedVideo(row=0, video_id="a", status="unreadable", error="no video stream")


@pytest.mark.parametrize(
    ("fields", "undone"),
    [
        ({}, ""),
        ({"did": {"videos_failed": 3, "videos_ok": 0}, "skipped": (BAD,)}, ""),  # a night's few new ones
        ({"did": {"shards_failed": 2}}, "2 shards failed; run again"),
        ({"did": {"videos_interrupted": 4}}, "4 videos were lost with their workers"),
        ({"details": {"num_usable": 0}, "skipped": (BAD,)}, "not one video can be used: no video stream"),
        ({"details": {"num_usable": 0}}, "not one video can be used; see `scale status`"),
        ({"details": {"num_usable": 1}, "skipped": (BAD,)}, ""),
    ],
)
def test_what_is_undone(fields, undone):
    report = StageReport(stage="extract", recipe="r", **fields)
    assert report.undone.startswith(undone)
    assert report.is_partial is bool(undone)


def test_every_doubt_is_said_once_and_names_its_model():
    def of(stage, **details):
        return StageReport(stage=stage, recipe="r", details=details)

    one = of("train", model="scale", doubts=["at chance"])
    several = of("train", models={"a": {"doubts": ["at chance"]}, "b": {"doubts": []}, "c": {}})
    embed = of("embed", doubts={"scale": "collapsed"})
    probe = of("probe", doubts=["model scale: at chance", "knn: below chance"])
    assert doubts_of(one, embed, probe) == ("model scale: at chance", "scale: collapsed", "knn: below chance")
    assert doubts_of(several) == ("model a: at chance",)
    assert doubts_of(of("train"), of("catalog")) == ()
