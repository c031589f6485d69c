"""The stream `audio`: what is heard is the crop's own time, and silence is masked, not invented."""

from __future__ import annotations

import numpy as np
import pytest

from aggregate.stage import plan_train, run_train
from extract.auditing import audit
from extract.decoding.opening import open_reader
from extract.decoding.sound import NO_SOUND, read_sound
from extract.sound.spectrogram import SoundSpec, log_mel
from pipeline.errors import RecipeError
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from tests.support.extraction import extract_all, tiny_program, tiny_recipe
from tests.support.sounds import hearing_program, write_sounding_video
from tests.support.videos import numbered_frames, write_video

SPEC = SoundSpec(sample_rate_hz=16_000, num_mels=32, num_steps=8, window_ms=25.0)


def band_of(frequency_hz: float, spec: SoundSpec = SPEC) -> int:
    times_s = np.arange(spec.sample_rate_hz) / spec.sample_rate_hz
    return int(log_mel(np.sin(2 * np.pi * frequency_hz * times_s).astype(np.float32), spec).mean(axis=1).argmax())


def up_then_down(times_s: np.ndarray) -> np.ndarray:
    return np.where(times_s < 1.0, 500.0, 3000.0)


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.mkv", "pcm_s16le", 44_100), ("a.mp4", "aac", 48_000)])
def test_a_crop_hears_exactly_its_own_time(tmp_path, name, codec, rate):
    path = write_sounding_video(tmp_path / name, up_then_down, codec=codec, rate=rate)
    spans_s = np.array([[0.2, 0.8], [0.5, 1.5], [1.2, 1.8]])
    with open_reader(path) as reader:
        heard = reader.read_sound(spans_s, SPEC)
    assert heard.error is None
    assert heard.has_sound.all()
    low, high = band_of(500), band_of(3000)
    loudest = heard.spectrograms.argmax(axis=1)
    assert (loudest[0] == low).all()
    assert (loudest[2] == high).all()
    assert loudest[1].tolist() == [low] * 4 + [high] * 4


def test_times_count_from_the_first_frame_and_gaps_stay_silent(tmp_path):
    path = write_sounding_video(tmp_path / "late.mkv", up_then_down, sound_from_s=1.0, sound_to_s=1.5)
    heard = read_sound(path, 0.0, np.array([[0.0, 0.5], [1.0, 1.5], [1.3, 1.7], [1.4, 2.0]]), SPEC)
    assert heard.has_sound.tolist() == [False, True, True, False]
    assert "2 crops" in heard.error
    assert (heard.spectrograms[1].argmax(axis=0) == band_of(3000)).all()
    shifted = read_sound(path, 1.0, np.array([[0.0, 0.5]]), SPEC)  # a file whose pictures begin at 1 s
    assert shifted.has_sound.all()
    np.testing.assert_allclose(shifted.spectrograms[0], heard.spectrograms[1], atol=1e-4)


def test_files_without_sound_and_files_that_are_none_say_so(tmp_path):
    silent = write_video(tmp_path / "silent.mp4", numbered_frames(20))
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 300)
    for path, why in ((silent, NO_SOUND), (tmp_path / "junk.mp4", "cannot be decoded"), (tmp_path, NO_SOUND)):
        heard = read_sound(path, 0.0, np.array([[0.0, 0.5]]), SPEC)
        assert not heard.has_sound.any()
        assert why in heard.error
    cut = write_sounding_video(tmp_path / "cut.mkv", up_then_down)
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    heard = read_sound(cut, 0.0, np.array([[0.0, 0.1], [1.8, 1.9]]), SPEC)
    assert not heard.has_sound[1]


def test_a_spectrogram_is_what_its_definition_says():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(1600).astype(np.float32)
    found = log_mel(samples, SPEC)
    assert found.shape == (32, 8)
    width, size = SPEC.window_samples, 512
    middle = round(0.5 / 8 * 1600)
    window = np.concatenate([np.zeros(width), samples])[middle + width - width // 2 :][:width]
    power = np.abs(np.fft.rfft(window * np.hanning(width + 1)[:-1], size)) ** 2 / width
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(0, mel(8000), 34) / 2595) - 1)
    bands = [np.sum(power * np.interp(np.linspace(0, 8000, 257), edges[m : m + 3], [0, 1, 0], 0, 0)) for m in range(32)]
    np.testing.assert_allclose(found[:, 0], np.log(np.array(bands) + 1e-6), rtol=1e-3, atol=1e-3)
    silence = log_mel(np.zeros(10, np.float32), SPEC)
    np.testing.assert_allclose(silence, np.log(1e-6))


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Four videos with sound and two without, seen and heard in the same crops."""
    folder = tmp_path_factory.mktemp("sound")
    data = folder / "data"
    for k in range(4):
        write_sounding_video(data / f"s{k}.mkv", lambda t, k=k: np.full_like(t, 400.0 * (k + 1)))
    for k in range(2):
        write_video(data / f"t{k}.mp4", numbered_frames(40, seed=k))
    program = tiny_program(folder)
    seeing = tiny_recipe(program).model_dump(mode="json", by_alias=True)["backbones"]["tiny"]
    recipe = tiny_recipe(
        program, backbones={"tiny": seeing, "ear": hearing_program(folder)}, dataset={"videos": "*.m*"}
    )
    settings = Settings(data=data, device="cpu", workers=1)
    store, _ = extract_all(recipe, folder / "store", settings)
    return recipe, store, settings


def test_what_is_heard_lies_beside_what_is_seen_and_silence_is_masked(extracted):
    _, store, settings = extracted
    ds = store.dataset("set")
    assert ds.feature_sets("grid") == ["ear-audio", "tiny"]
    seen, heard = ds.select().features("grid", "tiny"), ds.select().features("grid", "ear-audio")
    np.testing.assert_array_equal(seen.geometry[:4], heard.geometry[:4])
    assert seen.valid.all()
    assert heard.valid.all(axis=1).tolist() == [True] * 4 + [False] * 2
    assert not heard.valid[4:].any()
    table = ds.status("grid", "ear-audio")
    assert table["status"].to_pylist() == ["ok"] * 4 + ["partial"] * 2
    assert NO_SOUND in table["error"][5].as_py()
    assert set(ds.status("grid", "tiny")["status"].to_pylist()) == {"ok"}
    spec = SoundSpec(16_000, 16, 8, 25.0)
    loudest = heard.values[:4].mean(axis=1).argmax(axis=1).tolist()
    assert loudest == [band_of(400.0 * (k + 1), spec) for k in range(4)]
    assert audit(store, "set", "grid", "ear-audio", settings, num_crops=3).is_ok


def test_objectives_pair_what_is_heard_with_what_is_seen(extracted):
    recipe, store, settings = extracted
    model = {"dim": 32, "num_heads": 2, "head_hidden_dim": 32, "target_hidden_dim": 32, "projection_dim": 8}
    content = recipe.model_dump(mode="json", by_alias=True) | {"models": {"both": {
        "features": ["random3/tiny", "random3/ear-audio"], "objective": {"kind": "vicc", "stage": "cross"},
        "set_size": 1, "batch_size": 2, "epochs": 1, "rows": "all", "model": model}}}  # fmt: skip
    paired = parse_recipe(content)
    report = run_train(plan_train(paired, store, settings), store, settings)
    assert report.did["models_trained"] == 1


def test_ears_are_not_eyes(tmp_path):
    ear = hearing_program(tmp_path)
    program = tiny_program(tmp_path)
    with pytest.raises(RecipeError, match="kind audio"):
        tiny_recipe(program, streams=["rgb", "audio"])
    for wrong, why in (({"size_px": 16}, "size_px"), ({"streams": ["rgb"]}, "audio"), ({"num_mels": 0}, "num_mels")):
        with pytest.raises(RecipeError, match=why):
            tiny_recipe(program, backbones={"ear": {**ear, **wrong}})
