"""Which of its kernels the OpenBLAS inside FAISS uses: the best one that this processor can run.

FAISS's wheel carries an OpenBLAS that is older than many processors. One that it does not know gets its oldest kernel
(Prescott, of 2004), with which an exact scan takes three to five times as long. OpenBLAS reads the environment once,
when it is loaded; what is written there for that moment is taken back, for the other libraries that read it too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "OPENBLAS_CORETYPE"
_AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})
_CPUINFO = Path("/proc/cpuinfo")
_MAPS = Path("/proc/self/maps")


def best_kernel(vendor: str, flags: frozenset[str]) -> str | None:
    """Return the name of the kernel for a processor; None where OpenBLAS's own choice is as good.

    Parameters
    ----------
    vendor : str
        As /proc/cpuinfo gives it.
    flags : frozenset of str
        What the processor can do. A kernel that asks for more ends the process, so every instruction set is looked up.
    """
    if not flags >= {"avx2", "fma"}:
        return None
    if vendor == "AuthenticAMD":
        return "Zen"
    return "SkylakeX" if flags >= _AVX512 else "Haswell"


@contextmanager
def best_kernel_for_loading() -> Iterator[None]:
    """Let an OpenBLAS that is loaded inside the block take the best kernel, unless the user named one."""
    kernel = None if os.environ.get(VARIABLE) else best_kernel(*_processor())
    if kernel is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = kernel
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def loaded_kernel() -> str | None:
    """Return the kernel of FAISS's OpenBLAS in this process; None where there is none to ask."""
    try:
        paths = {line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines() if "openblas" in line}
        path = next(p for p in sorted(paths) if "faiss" in Path(p).parent.name)
        name = ctypes.CDLL(path).openblas_get_corename
    except (OSError, StopIteration, AttributeError):
        return None
    name.restype = ctypes.c_char_p
    return str(name().decode())


def _processor() -> tuple[str, frozenset[str]]:
    """Return vendor and flags of the first core; nothing where the system does not say."""
    try:
        lines = _CPUINFO.read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return "", frozenset()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split())
