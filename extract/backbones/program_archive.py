"""A .pt2 file, read as a zip, checked, and copied without anything that torch would unpickle or execute."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.backbones.inflation import check_inflation
from extract.backbones.program_check import checked_program, program_targets
from pipeline.errors import WeightsError

MODEL = "models/model.json"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
COPIED = ("archive_format", "archive_version", "byteorder", ".data/version", "version")
TENSOR_PREFIXES = ("data/weights/weight_", "data/constants/tensor_")
NATIVE_CODE = ("data/aotinductor", "data/executorch")
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ProgramSignature:
    """The one tensor that a program takes and the one that it gives.

    Attributes
    ----------
    input_shape : tuple of int or None
        None where the size is dynamic.
    dtype : int
        Code of its dtype in torch's schema; 7 is float32.
    output_shape : tuple of int or None
    batch_range : tuple of int
        Smallest and largest first dimension.
    """

    input_shape: tuple[int | None, ...]
    dtype: int
    output_shape: tuple[int | None, ...]
    batch_range: tuple[int, int]


def read_signature(path: Path) -> ProgramSignature:
    """Read what a program takes and gives, without torch.

    Raises
    ------
    WeightsError
        If it is no exported program, or not one tensor in, one tensor out.
    """
    with _open(path) as archive:
        return _signature(_read_program(archive, _root(archive, path), path), path)


def checked_copy(path: Path) -> io.BytesIO:
    """Return an archive with the graph and raw tensors of a program, and nothing else.

    Sample inputs, stack traces, guards and extra files are left out. That it
    is a copy matters: torch reads what was checked, not what another zip
    reader might see in the same bytes.

    Raises
    ------
    WeightsError
        If the file is no exported program, or needs unpickling or native code.
    """
    copy = io.BytesIO()
    with _open(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as out:
        root = _root(archive, path)
        records = [name.removeprefix(root) for name in archive.namelist() if not name.endswith("/")]
        native = [name for name in records if name.startswith(NATIVE_CODE)]
        if native:
            raise WeightsError(
                f"{path}: refused to load native code ({native[0]}); export the program with torch.export"
            )
        out.writestr("program/" + MODEL, json.dumps(_read_program(archive, root, path)))
        for name in CONFIGS:
            config = _read_json(archive, root + name, path)
            _check_payloads(config, path)
            out.writestr("program/" + name, json.dumps(config))
        out.writestr("program/" + SAMPLE_INPUTS, b"")
        for name in records:
            if name in COPIED or name.startswith(TENSOR_PREFIXES):
                out.writestr("program/" + name, _read_record(archive, root + name, path))
    copy.seek(0)
    return copy


def _open(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as err:
        raise WeightsError(f"expected a torch.export program (.pt2) at {path}, found something else: {err}") from err
    try:
        check_inflation(archive, path)
    except WeightsError:
        archive.close()
        raise
    return archive


def read_targets(path: Path) -> list[str]:
    """Return the operators that a checked program names."""
    with _open(path) as archive:
        return program_targets(_read_program(archive, _root(archive, path), path))


def _read_record(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as err:
        raise WeightsError(f"expected {name} of {path} to be whole, found: {err}; get the file again") from err


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the folder that the archive's records stand in."""
    roots = [name.removesuffix(MODEL) for name in archive.namelist() if name.endswith(MODEL)]
    if len(roots) != 1:
        raise WeightsError(
            f"expected a torch.export program with one {MODEL} at {path}, found {len(roots)}; "
            "save it again with torch.export.save of torch 2.8 or newer"
        )
    return roots[0]


def _read_json(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    try:
        if archive.getinfo(name).file_size > MAX_JSON_BYTES:
            raise WeightsError(f"expected at most {MAX_JSON_BYTES} bytes in {name} of {path}, found more")
        return json.loads(_read_record(archive, name, path))
    except (KeyError, ValueError, RecursionError) as err:
        raise WeightsError(f"expected JSON in {name} of {path}, found something else: {err}") from err


def _read_program(archive: zipfile.ZipFile, root: str, path: Path) -> dict[str, Any]:
    return checked_program(_read_json(archive, root + MODEL, path), source=str(path))


def _check_payloads(config: Any, path: Path) -> None:
    """Refuse payloads that torch would unpickle."""
    payloads = config.get("config") if isinstance(config, dict) else None
    if not isinstance(payloads, dict):
        raise WeightsError(f"{path}: expected a table of tensors, found {type(payloads).__name__}")
    for name, payload in payloads.items():
        raw = isinstance(payload, dict) and payload.get("use_pickle") is False
        if not raw or not str(payload.get("path_name", "")).startswith(("weight_", "tensor_")):
            raise WeightsError(f"{path}: refused to unpickle {name!r}; expected raw tensors alone")


def _signature(program: dict[str, Any], path: Path) -> ProgramSignature:
    module = program["graph_module"]
    try:
        inputs = [s["user_input"]["arg"] for s in module["signature"]["input_specs"] if "user_input" in s]
        outputs = [s["user_output"]["arg"] for s in module["signature"]["output_specs"] if "user_output" in s]
        if len(inputs) != 1 or len(outputs) != 1 or "as_tensor" not in inputs[0] or "as_tensor" not in outputs[0]:
            raise WeightsError(
                f"{path}: expected a program that takes one tensor and gives one, "
                f"found {len(inputs)} input(s) and {len(outputs)} output(s)"
            )
        values = module["graph"]["tensor_values"]
        taken, given = (values[side[0]["as_tensor"]["name"]] for side in (inputs, outputs))
        shape = tuple(size.get("as_int") for size in taken["sizes"])
        return ProgramSignature(
            input_shape=shape,
            dtype=taken["dtype"],
            output_shape=tuple(size.get("as_int") for size in given["sizes"]),
            batch_range=_batch_range(taken["sizes"][0], program.get("range_constraints", {})) if shape else (1, 1),
        )
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as err:
        raise WeightsError(f"{path}: expected a torch.export program, found one without {str(err)[:200]}") from err


def _batch_range(size: dict[str, Any], constraints: dict[str, Any]) -> tuple[int, int]:
    if "as_int" in size:
        return size["as_int"], size["as_int"]
    text = size["as_expr"]["expr_str"]
    for symbol, limits in constraints.items():
        if f"'{symbol}'" in text or text == symbol:
            return max(int(limits["min_val"] or 1), 1), int(limits["max_val"] or 1 << 31)
    return 1, 1 << 31
