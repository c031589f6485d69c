"""`scale doctor`: is this machine fit for a run, and if not, what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from flows.before_work import MIN_FREE_BYTES, local_folder
from pipeline.errors import InvalidInputError, PipelineError, StoreNotFoundError
from pipeline.settings import Settings
from pipeline.storage.opening import open_backend

ROOMY_BYTES = 5 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    result: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def diagnose(settings: Settings) -> list[Finding]:
    """Run every check; none of them raises.

    Returns
    -------
    list of Finding
        `fail` means that a run would not work; `warn` that something optional is not there.
    """
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings.extend(check(settings))
        except Exception as error:  # a broken installation may fail in any way; that is the finding
            name = check.__name__.removeprefix("_check_").replace("_", " ")
            findings.append(Finding(name, "fail", f"{type(error).__name__}: {error}", "make install in a fresh .venv"))
    return findings


def _check_versions(settings: Settings) -> Iterator[Finding]:
    python = sys.version.split()[0]
    yield Finding("python", "ok" if sys.version_info >= (3, 11) else "fail", python, "Python 3.11 or newer")
    for package in ("torch", "zarr", "av", "pyarrow", "duckdb", "faiss-cpu", "prefect", "distributed", "pytorchvideo"):
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "fail", "not installed", "make install")


def _check_device(settings: Settings) -> Iterator[Finding]:
    import torch

    from pipeline.compute.devices import pick_device

    try:
        yield Finding("device", "ok", f"{settings.device}: runs compute on {pick_device(settings.device)}")
    except InvalidInputError as error:
        yield Finding("device", "fail", str(error), "give another one with --device, or unset SCALE_DEVICE")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding("gpu", "ok", f"{names}; torch {torch.__version__}")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "gpu", "fail", f"a driver, but torch {torch.__version__} has no CUDA", "install torch's CUDA build"
        )
    else:
        yield Finding("gpu", "warn", "none", "extraction runs on the CPU; a GPU is far faster")
    has_compiler = shutil.which(os.environ.get("CC", "gcc")) is not None
    yield Finding(
        "compiler",
        "ok" if has_compiler else "warn",
        "gcc" if has_compiler else "none",
        "install gcc: torch.compile uses it",
    )


def _check_decoders(settings: Settings) -> Iterator[Finding]:
    from extract.doctor import describe_decoders

    for name, is_fine, found, fix in describe_decoders():
        yield Finding(name, "ok" if is_fine else ("fail" if name == "pyav" else "warn"), found, fix)


def _check_openvino(settings: Settings) -> Iterator[Finding]:
    from extract.doctor import describe_openvino

    works, found, fix = describe_openvino()
    yield Finding("openvino", "ok" if works else "warn", found, fix)


def _check_faiss(settings: Settings) -> Iterator[Finding]:
    from probe.maths.exact_search import describe_faiss

    yield Finding("faiss", "ok", describe_faiss())


def _check_store(settings: Settings) -> Iterator[Finding]:
    from pipeline import FeatureStore

    url = settings.store
    try:
        datasets = FeatureStore.open(url).datasets()
        held = f"{url} is a store with {len(datasets)} dataset(s){': ' if datasets else ''}{', '.join(datasets)}"
    except StoreNotFoundError:
        held = f"no store at {url} yet; a run makes it"
    except PipelineError as error:
        yield Finding("store", "fail", str(error), "give another store with --store or SCALE_STORE, or mend this one")
        return
    try:
        open_backend(url, writable=True)
        folder = local_folder(url)
    except PipelineError as error:
        yield Finding("store", "fail", str(error), "give a store that can be written with --store or SCALE_STORE")
        return
    if folder is None:
        yield Finding("store", "ok", f"{held}; the server honours conditional puts")
        return
    above = Path(url.removeprefix("file://"))
    if above.exists() and not above.is_dir():
        yield Finding(
            "store", "fail", f"{url} is a file, not a folder", "give another store with --store or SCALE_STORE"
        )
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".scale-doctor-"):
            pass
    except OSError as error:
        yield Finding(
            "store", "fail", f"{held}; {folder}: {error}", "give a folder that can be written, or mend its rights"
        )
        return
    yield Finding("store", "ok", f"{held}; {folder} can be written")
    yield describe_room(folder, shutil.disk_usage(folder).free)


def describe_room(folder: Path, free_bytes: int) -> Finding:
    """Say whether a disk has room: for a run at all, and for a large one."""
    if free_bytes < MIN_FREE_BYTES:
        found = f"{free_bytes / 2**20:.0f} MiB free in {folder}: no run would begin"
        return Finding("disk", "fail", found, "free space, or give a store elsewhere")
    result: Literal["ok", "warn"] = "ok" if free_bytes > ROOMY_BYTES else "warn"
    return Finding(
        "disk", result, f"{free_bytes / 2**30:.1f} GiB free", "K400 with 16 crops x 768 in float16 takes 5.9 GB"
    )


def _check_folders(settings: Settings) -> Iterator[Finding]:
    for name, folder, flag in (("videos", settings.data, "data"), ("weights", settings.weights, "weights")):
        if folder is not None:
            fix = f"correct --{flag} or SCALE_{flag.upper()}"
            is_there = folder.is_dir()
            yield Finding(name, "ok" if is_there else "fail", f"{folder}{'' if is_there else ': no such folder'}", fix)


def _check_prefect(settings: Settings) -> Iterator[Finding]:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        yield Finding(
            "prefect api",
            "warn",
            "PREFECT_API_URL is not set",
            "only flows need it: make up, then export PREFECT_API_URL",
        )
        return
    # Its health is told to anybody; this is not.
    request = urllib.request.Request(  # noqa: S310  (the operator's own address)
        f"{url.rstrip('/')}/work_pools/filter", data=b"{}", headers={"Content-Type": "application/json"}
    )
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        import base64

        request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            yield Finding("prefect api", "ok", f"{url} answers {answer.status} and accepts the password")
    except urllib.error.HTTPError as error:
        found = "refuses the password" if error.code in (401, 403) else f"answers {error.code}"
        fix = "set PREFECT_API_AUTH_STRING to the server's user:password (PREFECT_AUTH in .env)"
        yield Finding("prefect api", "fail", f"{url} {found}", fix)
    except (OSError, ValueError) as error:
        fix = "start it (make up), or check PREFECT_API_URL and PREFECT_API_AUTH_STRING"
        yield Finding("prefect api", "fail", f"{url}: {error}", fix)


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _check_versions,
    _check_device,
    _check_decoders,
    _check_openvino,
    _check_faiss,
    _check_store,
    _check_folders,
    _check_prefect,
)
