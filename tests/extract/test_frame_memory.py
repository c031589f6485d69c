from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest

from extract.decoding.frame_memory import BufferOrder, FrameMemory, MappedBuffers

MIB = 1 << 20


def test_a_buffer_is_used_again_when_its_last_view_is_gone() -> None:
    memory = FrameMemory(64 * MIB)
    first = memory.take(3 * MIB)
    frames = memory.lend(first, (3, MIB))
    view = frames[1:][:, ::2]
    frames[:] = 7
    del frames
    gc.collect()
    assert memory.take(3 * MIB) is not first  # the view still needs it
    assert view.min() == view.max() == 7
    del view
    gc.collect()
    assert memory.take(2 * MIB) is first


def test_much_too_large_buffers_are_left_for_others() -> None:
    memory = FrameMemory(1 << 40)
    large = memory.take(200 * MIB)
    memory.give_back(large)
    assert memory.take(MIB) is not large
    assert memory.take(190 * MIB) is large


def test_idle_buffers_are_bounded_and_closed_memory_keeps_none() -> None:
    memory = FrameMemory(40 * MIB)
    buffers = [memory.take(16 * MIB) for _ in range(4)]
    for buffer in buffers:
        memory.give_back(buffer)
    assert memory.take(16 * MIB) in buffers[2:]
    frames = memory.lend(memory.take(MIB), (MIB,))
    memory.close()
    frames[:] = 1
    del frames
    gc.collect()
    assert not memory._returned


def test_many_threads_never_share_a_buffer() -> None:
    memory = FrameMemory(64 * MIB)
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            frames = memory.lend(memory.take(int(rng.integers(1, 3 * MIB))), (4096,))
            frames[:] = seed
            if (frames != seed).any():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory._num_made < 200


def test_both_sides_agree_on_what_is_mapped() -> None:
    memory, here, there = FrameMemory(64 * MIB), BufferOrder(6 * MIB), MappedBuffers(6 * MIB)
    buffers = [memory.take(MIB * (1 + k % 3)) for k in range(7)]
    rng = np.random.default_rng(0)
    for step in range(300):
        buffer = buffers[int(rng.integers(len(buffers)))]
        is_new = buffer.number not in here
        here.use(buffer.number, buffer.num_bytes)
        vector = there.map(buffer.number, buffer.num_bytes, os.dup(buffer.descriptor) if is_new else None)
        vector[:8] = step % 251
        assert memory.lend(buffer, (8,)).tolist() == [step % 251] * 8
        assert list(there._memories) == sorted(there._memories, key=list(there._memories).index)
        assert set(there._memories) == set(here._sizes)


def test_memory_that_cannot_be_mapped_is_said_and_forgotten() -> None:
    there = MappedBuffers(MIB)
    with pytest.raises(MemoryError):
        there.map(1, MIB, os.open("/", os.O_RDONLY))
    assert 1 not in there._order
