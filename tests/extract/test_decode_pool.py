from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from extract.decoding import decode_pool
from extract.decoding.decode_pool import DecodePool
from extract.decoding.opening import open_reader
from pipeline.errors import InvalidInputError, VideoError
from tests.support.videos import frame_number, numbered_frames, write_video

BAD = "tests.support.bad_decoders:open_bad_reader"
WANTED = np.array([1, 4, 20])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("pool") / "plain.mp4", numbered_frames(40))


@pytest.fixture
def named(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give the video a name that tells a bad decoder what to do."""
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setenv("SCALE_TEST_MARKS", str(marks))

    def link(name: str) -> Path:
        path = tmp_path / f"{name}.mp4"
        path.symlink_to(video)
        return path

    return link


@pytest.fixture(scope="module")
def pool():
    with DecodePool(2, timeout_s=30) as pool:
        yield pool


def test_frames_from_a_worker_equal_those_read_here(pool: DecodePool, video: Path) -> None:
    with pool.open_reader(video) as there, open_reader(video) as here:
        np.testing.assert_array_equal(there.frame_times_s, here.frame_times_s)
        assert (there.info, there.height, there.width) == (here.info, here.height, here.width)
        assert (there.decoder_name, there.decoder_version) == (here.decoder_name, here.decoder_version)
        decoded = there.read(WANTED)
        np.testing.assert_array_equal(decoded.frames, here.read(WANTED).frames)
        assert decoded.indices.tolist() == WANTED.tolist()
        assert there.read(np.zeros(0, np.int64)).frames.shape == (0, 48, 80, 3)
        out = np.zeros((3, 48, 80, 3), np.uint8)
        assert np.shares_memory(there.read(WANTED, out).frames, out)
        np.testing.assert_array_equal(out, decoded.frames)


def test_frames_outlive_reader_and_pool_and_leave_nothing_behind(video: Path) -> None:
    me = psutil.Process()
    gc.collect()
    before, children = me.num_fds(), set(me.children())
    with DecodePool(1) as pool, pool.open_reader(video) as reader:
        frames = reader.read(WANTED).frames
        (worker,) = set(me.children()) - children
    assert [frame_number(frame) for frame in frames] == WANTED.tolist()
    frames[0] = 0  # writable: the caller owns them
    assert not worker.is_running()
    del frames, reader, pool
    gc.collect()
    assert me.num_fds() <= before


def test_jobs_are_planned_here_and_decoded_there(pool: DecodePool, video: Path) -> None:
    threads = set()

    def every_tenth(info: object, times: np.ndarray) -> np.ndarray:
        threads.add(threading.current_thread().name)
        return np.arange(0, len(times), 10)

    futures = [pool.submit(video, every_tenth) for _ in range(6)] + [pool.submit(video, WANTED)]
    numbers = [[frame_number(frame) for frame in future.result(60).frames] for future in futures]
    assert numbers == [[0, 10, 20, 30]] * 6 + [WANTED.tolist()]
    assert all(name.startswith("decode") for name in threads)


def test_bad_requests_are_errors_and_keep_the_worker(pool: DecodePool, video: Path, tmp_path: Path) -> None:
    with pool.open_reader(video):  # workers start when first needed, and this test may be the first
        workers = {child.pid for child in psutil.Process().children()}
    with pool.open_reader(video) as reader:
        with pytest.raises(InvalidInputError, match="frame numbers"):
            reader.read(np.array([3, 2]))
        assert len(reader.read(WANTED).frames) == 3
    with pytest.raises(VideoError, match="no such file") as caught:
        pool.open_reader(tmp_path / "none.mp4")
    assert caught.value.status == "missing"
    with pytest.raises(InvalidInputError, match="decoder"):
        pool.open_reader(video, decoder="decord")
    assert workers == {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "crashed (SIGSEGV), in each of 2 processes"),
        pytest.param("open-crash", "crashed (SIGSEGV), in each of 2 processes", marks=pytest.mark.slow),
        ("exit", "exit code 7"),
        ("hang", "no sign of life for 1.5 s"),
        pytest.param("open-hang", "no sign of life for 1.5 s", marks=pytest.mark.slow),
    ],
)
def test_what_kills_its_decoder_is_unreadable_and_others_go_on(named, name: str, reason: str) -> None:
    good, bad = named("good"), named(name)
    with DecodePool(1, timeout_s=1.5, opener=BAD) as pool:
        futures = [pool.submit(path, WANTED) for path in (good, bad, good)]
        with pytest.raises(VideoError) as caught:
            futures[1].result(60)
        assert reason in str(caught.value)
        assert caught.value.status == "unreadable"
        for future in (futures[0], futures[2]):
            assert [frame_number(frame) for frame in future.result(60).frames] == WANTED.tolist()


@pytest.mark.parametrize("name", ["kill", "open-kill"])
def test_a_killed_decoder_says_nothing_of_the_file(named, name: str) -> None:
    with DecodePool(1, timeout_s=30, opener=BAD) as pool:
        with pytest.raises(VideoError, match="the system does that when memory runs out") as caught:
            pool.submit(named(name), WANTED).result(60)
        assert caught.value.status == "interrupted"
        assert len(pool.submit(named("good"), WANTED).result(60).frames) == 3


@pytest.mark.parametrize("name", ["crash-once", "open-crash-once", "hang-once", "kill-once", "open-kill-once"])
def test_what_fails_once_is_tried_again_in_a_fresh_process(named, name: str) -> None:
    with DecodePool(1, timeout_s=1.5, opener=BAD) as pool, pool.open_reader(named(name)) as reader:
        decoded = reader.read(WANTED)
        assert [frame_number(frame) for frame in decoded.frames] == WANTED.tolist()
        assert reader.attempts == 2


def test_a_defect_of_ours_costs_one_video_and_says_where(named, capfd: pytest.CaptureFixture[str]) -> None:
    with DecodePool(1, opener=BAD) as pool:
        for name in ("defect", "open-defect"):
            with pytest.raises(VideoError, match=r"KeyError: 'a defect of ours' \(bad_decoders.py:"):
                pool.submit(named(name), WANTED).result(60)
        assert len(pool.submit(named("good"), WANTED).result(60).frames) == 3
    assert capfd.readouterr().err == ""


def test_slow_is_not_stuck(named) -> None:
    with DecodePool(1, timeout_s=1.1, opener=BAD) as pool, pool.open_reader(named("slow")) as reader:
        assert len(reader.read(WANTED).frames) == 3
        assert reader.attempts == 1


def test_work_that_shows_life_for_ever_is_ended(named, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DecodePool, "_limit_s", lambda self, path: 0.5)
    with DecodePool(1, timeout_s=30, opener=BAD) as pool:
        future = pool.submit(named("endless"), WANTED)
        with pytest.raises(VideoError, match=r"not done after 0.5 s, in each of 2 processes"):
            future.result(60)


def test_a_crash_of_inspection_is_a_row_with_a_reason(pool: DecodePool, video: Path, monkeypatch) -> None:
    asked = []

    def ask(worker, verb, limit_s, **arguments):
        asked.append(worker)
        worker.process.send_signal(signal.SIGSEGV)
        worker.process.wait()
        return DecodePool._ask(pool, worker, verb, limit_s, **arguments)

    monkeypatch.setattr(pool, "_ask", ask)
    info = pool.inspect(video)
    assert info.status == "unreadable"
    assert info.error is not None
    assert "SIGSEGV" in info.error
    assert len(asked) == 2
    monkeypatch.undo()
    assert pool.inspect(video).num_frames == 40


def test_an_inspection_that_is_killed_says_nothing_of_the_file(pool: DecodePool, video: Path, monkeypatch) -> None:
    def ask(worker, verb, limit_s, **arguments):
        worker.process.kill()
        worker.process.wait()
        return DecodePool._ask(pool, worker, verb, limit_s, **arguments)

    monkeypatch.setattr(pool, "_ask", ask)
    info = pool.inspect(video)
    assert info.status == "interrupted"
    assert "SIGKILL" in str(info.error)


def test_an_interrupted_question_is_not_answered_to_the_next(named) -> None:
    with DecodePool(1, timeout_s=30, opener=BAD) as pool:
        with pool.open_reader(named("slow")) as reader:
            worker = reader._worker
            assert worker is not None
            worker.connection.poll = lambda timeout: (_ for _ in ()).throw(KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                reader.read(WANTED)
        with pool.open_reader(named("good")) as reader:
            assert [frame_number(frame) for frame in reader.read(WANTED[1:]).frames] == WANTED[1:].tolist()
            assert reader.attempts == 1


def test_workers_leave_ctrl_c_to_their_parent(pool: DecodePool, video: Path) -> None:
    with pool.open_reader(video) as reader:
        assert reader._worker is not None
        reader._worker.process.send_signal(signal.SIGINT)
        assert len(reader.read(WANTED).frames) == 3
        assert reader.attempts == 1


def test_inspection_keeps_order_and_takes_any_number(pool: DecodePool, video: Path, tmp_path: Path) -> None:
    paths = [video, tmp_path / "none.mp4"] * 20
    assert [info.num_frames for info in pool.inspect_all(paths)] == [40, 0] * 20
    assert list(pool.inspect_all([])) == []


def test_more_frames_than_memory_are_refused_with_the_sum(video: Path) -> None:
    with DecodePool(1, max_bytes=100_000) as pool, pool.open_reader(video) as reader:
        assert len(reader.read(np.arange(8)).frames) == 8
        with pytest.raises(VideoError, match="40 wanted frames of 80x48 px"):
            reader.read(np.arange(40))


def test_a_worker_does_not_outlive_its_parent(named) -> None:
    script = (
        "import sys, numpy as np\n"
        "from extract.decoding.decode_pool import DecodePool\n"
        f"pool = DecodePool(1, opener={BAD!r})\n"
        "reader = pool.open_reader(sys.argv[1])\n"
        "print('open', flush=True)\n"
        "reader.read(np.array([0]))\n"
    )
    command = [sys.executable, "-c", script, str(named("hang"))]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"open\n"
    (worker,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    worker.wait(timeout=20)


def test_a_script_without_a_main_guard_can_use_a_pool(video: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from extract.decoding.decode_pool import DecodePool\n"
        f"with DecodePool(1) as pool:\n    print(pool.inspect({str(video)!r}).num_frames)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout, done.stderr) == ("40\n", "")


def test_workers_do_not_pay_for_torch() -> None:
    heavy = ("torch", "zarr", "duckdb", "pyarrow", "prefect")
    code = f"import sys, extract.decoding.decode_worker; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_pools_are_checked_and_closed(video: Path) -> None:
    with pytest.raises(InvalidInputError):
        DecodePool(-1)
    pool = DecodePool(1)
    pool.close()
    with pytest.raises(InvalidInputError, match="closed"):
        pool.open_reader(video)
    assert decode_pool.num_cores() >= 1


@pytest.mark.slow
def test_a_storm_of_crashes_loses_no_video(named) -> None:
    names = [f"{kind}-{k}" for k in range(12) for kind in ("good", "crash-once", "slow", "exit-once", "crash")]
    started = time.monotonic()
    with DecodePool(2, timeout_s=5, opener=BAD) as pool:
        futures = {name: pool.submit(named(name), WANTED) for name in names}
        for name, future in futures.items():
            if name.startswith("crash") and "once" not in name:
                with pytest.raises(VideoError, match="SIGSEGV"):
                    future.result(120)
            else:
                assert [frame_number(frame) for frame in future.result(120).frames] == WANTED.tolist()
    assert time.monotonic() - started < 200
