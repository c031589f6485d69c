"""FAISS's matrix products use the best kernel that the processor can run, and never one that it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from probe.blas_kernel import VARIABLE, _processor, best_kernel, best_kernel_for_loading

AVX2 = frozenset({"sse2", "avx", "avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", AVX512 | {"amx_tile"}, "SkylakeX"),
        ("GenuineIntel", AVX512 - {"avx512dq"}, "Haswell"),  # the kernel would end the process
        ("GenuineIntel", AVX2, "Haswell"),
        ("GenuineIntel", AVX2 - {"fma"}, None),
        ("AuthenticAMD", AVX2, "Zen"),
        ("AuthenticAMD", AVX512, "Zen"),
        ("HygonGenuine", AVX2, "Haswell"),
        ("", frozenset(), None),  # another architecture, or no /proc
    ],
)
def test_the_kernel_asks_for_nothing_that_the_processor_lacks(vendor, flags, expected):
    assert best_kernel(vendor, flags) == expected


def test_what_the_user_set_stays_and_what_was_not_set_is_gone_afterwards(monkeypatch):
    monkeypatch.setenv(VARIABLE, "Nehalem")
    with best_kernel_for_loading():
        assert os.environ[VARIABLE] == "Nehalem"
    monkeypatch.delenv(VARIABLE)
    with best_kernel_for_loading():
        assert os.environ.get(VARIABLE) == best_kernel(*_processor())
    assert VARIABLE not in os.environ


SCRIPT = """
import json, os, sys
import numpy as np
from probe.blas_kernel import VARIABLE, loaded_kernel
from probe.maths.exact_search import describe_faiss, nearest, unit_vectors
rng = np.random.default_rng(0)
gallery = unit_vectors(rng.standard_normal((3000, 64), dtype=np.float32))
gallery[1500:1600] = gallery[:100]  # ties: the lower row first
found = nearest(gallery[:100], gallery, 5)
print(json.dumps([loaded_kernel(), describe_faiss(), VARIABLE in os.environ, found.index_QK.tolist(),
                  found.similarity_QK.tolist()]))
"""


@pytest.mark.slow
def test_neighbours_and_ties_do_not_depend_on_the_kernel():
    """Each kernel is loaded by a process of its own."""
    best = best_kernel(*_processor())
    if best is None:
        pytest.skip("no kernel is chosen on this processor")
    answers = {}
    for kernel in ("", "Prescott", "Nehalem"):
        environment = {**os.environ, VARIABLE: kernel}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        answers[kernel] = json.loads(done.stdout)
    assert answers[""][0] == best  # an empty variable is none
    assert f"{best} kernel" in answers[""][1]
    assert answers["Nehalem"][0] == "Nehalem"
    assert answers[""][3:] == answers["Prescott"][3:] == answers["Nehalem"][3:]
    assert answers[""][3][0][:2] == [0, 1500]
