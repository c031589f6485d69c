"""One place that imports FAISS, after torch, and tells both how many threads they have."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from pipeline.compute.threads import num_threads
from pipeline.errors import MissingDependencyError
from probe.blas_kernel import best_kernel_for_loading

GALLERY_ROWS_PER_PRODUCT = 4096


@cache
def load_faiss() -> Any:
    """Return the `faiss` module, with its thread pool capped once a process.

    torch is imported first: the two wheels bring an OpenMP runtime each, and
    the other order crashed in several releases (facebookresearch/faiss#4273).
    Its OpenBLAS gets the best kernel for this processor, see `probe.blas_kernel`.

    Raises
    ------
    MissingDependencyError
        If faiss cannot be imported here.
    """
    try:
        import_module("torch")
        with best_kernel_for_loading():
            import faiss
    except ImportError as err:
        raise MissingDependencyError(
            f"expected the package faiss-cpu, could not import it: {err}; run `pip install faiss-cpu`"
        ) from err
    faiss.omp_set_num_threads(num_threads())
    # Wider blocks of the gallery keep the matrix product busier than FAISS's 1,024; results do not depend on it.
    faiss.cvar.distance_compute_blas_database_bs = GALLERY_ROWS_PER_PRODUCT
    return faiss
