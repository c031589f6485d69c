"""Zero-shot: the class whose words are nearest to a video; no label is learned from.

Shape legend: Q test rows, C classes, T templates, D channels.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.recipe.probes import ZeroShotProbe
from probe.found import NeighboursFound
from probe.maths.exact_search import similarities, unit_vectors
from probe.methods.measure import classification_result
from probe.methods.registry import Probing, Texts, measure_probe


@measure_probe.register(ZeroShotProbe)
def measure_zero_shot(spec: ZeroShotProbe, probing: Probing) -> None:
    """Measure how often the words of a test video's own class are the nearest."""
    if probing.texts is None:
        raise InvalidInputError(
            "expected a function that turns words into vectors for the probe zero_shot, found none; give `texts`"
        )
    setting, data = probing.setting, probing.data
    words_CD = class_vectors(spec, setting.vocabulary.classes, data.feature_set, probing.texts)
    if words_CD.shape[1] != data.num_channels:
        raise ShapeMismatchError(
            f"expected {data.num_channels} channels of the text tower, as {data.crops}/{data.feature_set} has, found "
            f"{words_CD.shape[1]}; is it the tower of this backbone?"
        )
    test_QD = unit_vectors(data.parts[0][data.used.test].astype(np.float32))
    scores_QC = similarities(test_QD, words_CD)
    predicted = scores_QC.argmax(axis=1)
    result, hit = classification_result(
        setting, "zero_shot", scores_QC, predicted, parts=(f"{len(spec.templates)}_templates",), is_headline=True,
        seed=spec.seed, train=np.empty(0, np.int64), protocol="zero_shot", num_train=0,
        found=NeighboursFound(centring="none"),
    )  # fmt: skip
    probing.findings.keep(result, setting, hit, predicted)


def class_vectors(spec: ZeroShotProbe, classes: tuple[str, ...], feature_set: str, texts: Texts) -> np.ndarray:
    """Return a unit vector a class, (C, D) float32: the mean of its templates' unit vectors."""
    asked = [text for label in classes for text in spec.texts(label)]
    vectors = unit_vectors(np.asarray(texts(feature_set, asked), np.float32))
    return unit_vectors(vectors.reshape(len(classes), len(spec.templates), -1).mean(axis=1))
