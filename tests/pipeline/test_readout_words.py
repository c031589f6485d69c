"""One vocabulary of readouts: what recipes may say, what stages do, the three ways of joining two vectors."""

from typing import get_args

import numpy as np
import torch

from aggregate.embeddings.embed import embed
from aggregate.network.model import ScaleModel
from pipeline.readouts.joining import fit_joined
from pipeline.recipe import readout_words as words
from pipeline.recipe.readouts import plain_readout
from probe.data.vectors import Transform
from tests.support.set_batches import TINY


def said(alias) -> set[str]:
    return {word for part in get_args(alias) for word in get_args(part) if isinstance(word, str)}


def test_recipes_say_no_word_that_nothing_reads():
    assert said(words.ProbedReadout) | said(words.TrainedReadout) | {"attention"} == set(words.BUILT_IN)
    assert said(words.EmbeddedReadout) == {*words.OF_MODELS, *words.UNTRAINED}
    assert set(words.IN_WORDS) == {*words.OF_CROPS, *words.OF_EMBEDDINGS}
    for word in words.BUILT_IN:
        assert (plain_readout(word, "c", "b") is not None) == (word in words.UNTRAINED)


def test_joined_raw_unit_and_with_equal_say():
    torch.manual_seed(0)
    model, crops, geometry = ScaleModel(8, TINY).eval(), torch.randn(3, 5, 8) * 7, torch.rand(3, 5, 9)
    mean, cls, raw, unit = (
        embed(model, crops, geometry, readout=word)[0].numpy()
        for word in ("mean", "cls", "joined", "joined_normalised")
    )
    assert np.array_equal(raw, np.concatenate([mean, cls], axis=1))
    assert np.allclose(np.linalg.norm(unit[:, : mean.shape[1]], axis=1), 1)
    assert np.allclose(unit[:, : mean.shape[1]], mean / np.linalg.norm(mean, axis=1, keepdims=True))
    centre = raw.mean(axis=0, keepdims=True)
    searched = Transform((mean.shape[1], cls.shape[1]), centre[0])(raw)
    probed = fit_joined([mean, cls], weights=(1.0, 1.0)).equal_say([mean, cls])
    assert np.allclose(searched * np.sqrt(2), probed, atol=1e-5)  # the same say, before the whole is made length 1
    assert np.allclose(np.linalg.norm(probed[:, : mean.shape[1]], axis=1), 1, atol=1e-5)
