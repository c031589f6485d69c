"""Exported programs: the right numbers for any batch, clear refusals, and nothing in the file is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from extract.backbones import describe_backbone, load_backbone
from extract.backbones.program_archive import checked_copy, read_signature
from extract.backbones.program_check import checked_program
from extract.backbones.weights import read_state_dict
from pipeline.errors import ShapeMismatchError, WeightsError
from pipeline.fingerprint import hash_file
from pipeline.recipe import ExportedBackbone
from pipeline.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "models/model.json"


class Frames(nn.Module):
    """(N, 3, H, W) -> (N, 5), with a batch norm that still has its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
        self.norm.running_mean = torch.linspace(-1, 1, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu()).mean((2, 3))


class Crops(nn.Module):
    """(B, 3, T, H, W) -> (B, 4)."""

    def __init__(self, *, as_tuple: bool = False) -> None:
        super().__init__()
        self.conv, self.as_tuple = nn.Conv3d(3, 4, 3, padding=1), as_tuple

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor]:
        features = self.conv(x).mean((2, 3, 4))
        return (features,) if self.as_tuple else features


def export(network: nn.Module, example: Tensor, path: Path, *, dynamic: bool = True, **range_: int) -> Path:
    batch = torch.export.Dim("batch", **range_) if dynamic else None
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    shapes = ({0: batch},) if batch is not None else None
    torch.export.save(torch.export.export(network.eval(), (example,), dynamic_shapes=shapes), path)
    return path


def spec(path: Path, input: str = "frame", **options: Any) -> ExportedBackbone:
    weights = {"path": str(path), "sha256": hash_file(path)}
    return ExportedBackbone(kind="exported", input=input, weights=weights, **options)


@pytest.fixture(scope="module")
def frame_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    network = Frames()
    return export(network, torch.randn(3, 3, 32, 32), tmp_path_factory.mktemp("p") / "frames.pt2"), network


def test_per_frame_programs_are_averaged(frame_program: tuple[Path, nn.Module]) -> None:
    path, network = frame_program
    backbone = load_backbone(spec(path), Settings())
    clips = torch.randn(3, 3, 4, 32, 32)
    with torch.inference_mode():
        expected = torch.stack([network(clips[:, :, t]) for t in range(4)]).mean(0)
    torch.testing.assert_close(backbone(clips), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone(clips[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    assert backbone.dim == 5
    assert (backbone.size_px, backbone.num_frames) == (32, None)
    assert backbone.is_trained
    assert backbone.description() == describe_backbone(spec(path), Settings()).description()
    with pytest.raises(ShapeMismatchError, match="32 x 32 px, found 64 x 64"):
        backbone(torch.zeros(1, 3, 4, 64, 64))


@pytest.mark.parametrize("as_tuple", [False, True])
def test_crop_programs(tmp_path: Path, as_tuple: bool) -> None:
    network = Crops(as_tuple=as_tuple)
    path = export(network, torch.randn(2, 3, 4, 16, 16), tmp_path / "crops.pt2")
    backbone = load_backbone(spec(path, "crop"), Settings())
    assert (backbone.num_frames, backbone.size_px, backbone.dim) == (4, 16, 4)
    clips = torch.randn(5, 3, 4, 16, 16)
    with torch.inference_mode():
        features = network(clips)
    torch.testing.assert_close(backbone(clips), features[0] if as_tuple else features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dynamic", "range_"), [(False, {}), (True, {"min": 2, "max": 4})])
def test_programs_of_a_limited_batch_take_any(tmp_path: Path, dynamic: bool, range_: dict[str, int]) -> None:
    network = Crops()
    path = export(network, torch.randn(3, 3, 2, 8, 8), tmp_path / "p.pt2", dynamic=dynamic, **range_)
    backbone = load_backbone(spec(path, "crop"), Settings())
    clips = torch.randn(9, 3, 2, 8, 8)
    with torch.inference_mode():
        expected = network(clips)
    for num_crops in (1, 2, 3, 4, 9):
        torch.testing.assert_close(backbone(clips[:num_crops]), expected[:num_crops], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "crop"}, "try `input: frame`"),
        ({"size_px": 64}, "expected size_px 32, which the program is fixed to, found 64"),
    ],
)
def test_recipes_that_do_not_fit_the_program(
    frame_program: tuple[Path, nn.Module], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShapeMismatchError, match=message):
        describe_backbone(spec(frame_program[0], **options), Settings())


def test_programs_that_are_no_feature_extractors(tmp_path: Path) -> None:
    path = export(nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8), tmp_path / "map.pt2")
    with pytest.raises(ShapeMismatchError, match="expected one vector a crop or frame"):
        describe_backbone(spec(path), Settings())
    path = export(Frames().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64), tmp_path / "double.pt2")
    with pytest.raises(ShapeMismatchError, match="takes float32"):
        describe_backbone(spec(path), Settings())


def rewrite(path: Path, out: Path, change: Callable[[str, bytes], bytes | None], **extra: bytes) -> Path:
    """Copy an archive record by record through `change`; None drops a record."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            content = change(name.removeprefix(root + "/"), old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in extra.items():
            new.writestr(f"{root}/{name}", content)
    return out


def with_model(path: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    def edit(name: str, content: bytes) -> bytes:
        if name != MODEL:
            return content
        model = json.loads(content)
        change(model)
        return json.dumps(model).encode()

    return rewrite(path, out, edit)


def nodes(model: dict[str, Any]) -> list[dict[str, Any]]:
    return model["graph_module"]["graph"]["nodes"]


def _target(model: dict[str, Any], target: str) -> None:
    nodes(model)[0]["target"] = target


def _size(model: dict[str, Any], text: str) -> None:
    values = model["graph_module"]["graph"]["tensor_values"]
    next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}


def _spec(model: dict[str, Any], text: str) -> None:
    model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = text


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a function of the os module": lambda m: _target(m, "torch.os.system"),
    "a function of torch": lambda m: _target(m, "torch.load"),
    "a file mapped as a tensor": lambda m: _target(m, "torch.ops.aten.from_file.default"),
    "an operator that calls": lambda m: _target(m, "_operator.call"),
    "an operator of an extension": lambda m: _target(m, "#custom:thing"),
    "a size that is code": lambda m: _size(m, "__import__('os').system('true')"),
    "a size that reaches attributes": lambda m: _size(m, "Symbol('s0').__class__"),
    "a symbol that is code": lambda m: _size(m, "Symbol('__import__')"),
    "a size that is a lambda": lambda m: _size(m, "(lambda: 1)()"),
    "a tower of powers": lambda m: _size(m, "Pow(Integer(9),Pow(Integer(9),Pow(Integer(9),Integer(99))))"),
    "a tower of operators": lambda m: _size(m, "9**9**9**9"),
    "a power of powers": lambda m: _size(m, "(((((9**8)**8)**8)**8)**8)"),
    "a large exponent": lambda m: _size(m, "Pow(Integer(9), Integer(999999999))"),
    "a symbol as exponent": lambda m: _size(m, "Pow(Integer(9), Symbol('s0'))"),
    "a wide shift": lambda m: _size(m, "LShift(Integer(1), Integer(99999999999))"),
    "a number of many digits": lambda m: _size(m, "Integer(" + "9" * 3000 + ")"),
    "a deep expression": lambda m: _size(m, "(" * 80 + "1" + "+1)" * 80),
    "a class behind an operator": lambda m: _target(m, "torch.ops.aten.__class__.__init__"),
    "a maker of classes": lambda m: _target(m, "torch.ops.aten.add.__init_subclass__"),
    "a container that imports": lambda m: _spec(m, '[1, {"type": "collections.defaultdict", "children_spec": []}]'),
    "a node name that is code": lambda m: nodes(m)[0].__setitem__("name", "x):\n import os\n#"),
    "a custom object": lambda m: nodes(m)[0]["inputs"][0].__setitem__("arg", {"as_custom_obj": {"name": "x"}}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_graphs_are_refused(frame_program: tuple[Path, nn.Module], tmp_path: Path, case: str) -> None:
    path = with_model(frame_program[0], tmp_path / "evil.pt2", HOSTILE[case])
    with pytest.raises(WeightsError, match="refused to load the program"):
        describe_backbone(spec(path), Settings())
    with pytest.raises(WeightsError, match="refused to load the program"):
        checked_copy(path)


@pytest.mark.parametrize(
    "target", ["torch.ops.aten.add.overloads", "torch.ops.aten._dir.append", "torch.ops.aten.add.no"]
)
def test_what_is_no_operator_never_reaches_torch(frame_program, tmp_path: Path, target: str) -> None:
    path = with_model(frame_program[0], tmp_path / "evil.pt2", lambda m: _target(m, target))
    with pytest.raises(WeightsError, match="expected an operator of torch"):
        load_backbone(spec(path), Settings())


@pytest.mark.parametrize("text", ["Symbol('s0', positive=True)", "2*Symbol('s0') + 1", "Pow(Symbol('s0'), Integer(2))",
                                  "FloorDiv(Symbol('s0') - 1, 2) + 1", "Symbol('s0')**2", "Integer(4096)"])  # fmt: skip
def test_sizes_that_programs_have_pass(frame_program, tmp_path: Path, text: str) -> None:
    checked_copy(with_model(frame_program[0], tmp_path / "p.pt2", lambda m: _size(m, text)))


def test_an_archive_that_unfolds_to_gigabytes_is_refused_unread(frame_program, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    path.write_bytes(frame_program[0].read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        root = archive.namelist()[0].split("/")[0]
        with archive.open(f"{root}/data/weights/weight_99", "w", force_zip64=True) as record:
            for _ in range(160):
                record.write(bytes(1 << 20))
    assert path.stat().st_size < 2 << 20
    with pytest.raises(WeightsError, match="unfold to"):
        load_backbone(spec(path), Settings())
    state = tmp_path / "bomb.pth"
    state.write_bytes(path.read_bytes())
    with pytest.raises(WeightsError, match="unfold to"):
        read_state_dict(state)


JUNK = (
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from([[], {}, "Symbol('s0')", -1, 1 << 70, "x" * 999])
)


@hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_any_change_of_a_program_is_refused_as_weights_or_harmless(frame_program, tmp_path: Path, data) -> None:
    def change(model: dict[str, Any]) -> None:
        node: Any = model["graph_module"]
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 5)) == 0:
                node[key] = data.draw(JUNK)
                return
            node = node[key]

    path = with_model(frame_program[0], tmp_path / "p.pt2", change)
    try:
        backbone: Any = load_backbone(spec(path), Settings())
    except (WeightsError, ShapeMismatchError) as err:
        backbone = str(err)
    assert backbone


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_pickles_in_the_archive_never_run(frame_program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """torch.export.load itself runs all of these; sample inputs are simply left out here."""
    path, _ = frame_program
    marker = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save((Bomb(marker),), buffer)

    evil = rewrite(
        path, tmp_path / "samples.pt2", lambda n, c: buffer.getvalue() if n == "data/sample_inputs/model.pt" else c
    )
    clips = torch.randn(1, 3, 2, 32, 32)
    load_backbone(spec(evil), Settings())(clips)

    def pickled(name: str, content: bytes) -> bytes:
        if not name.endswith("_config.json") or "weights" not in name:
            return content
        config = json.loads(content)
        first = next(iter(config["config"].values()))
        first.update(use_pickle=True, path_name="weight_0")
        return json.dumps(config).encode()

    evil = rewrite(path, tmp_path / "weights.pt2", pickled)
    with pytest.raises(WeightsError, match="refused to unpickle"):
        load_backbone(spec(evil), Settings())

    constants = {"thing": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}}
    evil = rewrite(
        path,
        tmp_path / "objects.pt2",
        lambda n, c: json.dumps({"config": constants}).encode() if n.endswith("constants_config.json") else c,
        **{"data/constants/opaque_obj_0": pickle.dumps(Bomb(marker))},
    )
    with pytest.raises(WeightsError, match="refused to unpickle 'thing'"):
        load_backbone(spec(evil), Settings())

    evil = rewrite(path, tmp_path / "native.pt2", lambda n, c: c, **{"data/aotinductor/model/a.so": b"\x7fELF"})
    with pytest.raises(WeightsError, match="refused to load native code"):
        load_backbone(spec(evil), Settings())
    assert not marker.exists()


def test_guards_and_traces_are_not_executed(frame_program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    def change(model: dict[str, Any]) -> None:
        model["guards_code"] = ["__import__('os').abort()"]
        for node in nodes(model):
            node["metadata"] = {"nn_module_stack": "a,b,os.abort", "torch_fn": "os.abort;os.abort"}

    path = with_model(frame_program[0], tmp_path / "guards.pt2", change)
    assert load_backbone(spec(path), Settings())(torch.randn(1, 3, 2, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18)])
def test_files_that_are_no_programs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.pt2"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"expected a torch\.export program"):
        read_signature(path)


def test_archives_that_are_cut_or_edited(frame_program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path = frame_program[0]
    missing = rewrite(path, tmp_path / "missing.pt2", lambda n, c: None if n == "data/weights/weight_0" else c)
    with pytest.raises(WeightsError):
        load_backbone(spec(missing), Settings())
    short = rewrite(path, tmp_path / "short.pt2", lambda n, c: c[:8] if n == "data/weights/weight_0" else c)
    with pytest.raises(WeightsError):
        load_backbone(spec(short), Settings())
    with pytest.raises(WeightsError, match="no graph"):
        checked_program([], source="x")


@pytest.mark.shared_data
def test_the_real_mobilenet_equals_torch_export_load(shared_data: Path) -> None:
    path = shared_data / "weights" / "mobilenet_v2_imagenet_features_1280.pt2"
    backbone = load_backbone(spec(path), Settings())
    clips = torch.randn(1, 3, 2, 224, 224, generator=torch.Generator().manual_seed(0))
    program = torch.export.load(path).module()
    with torch.inference_mode():
        expected = program(clips[0].transpose(0, 1)).mean(0, keepdim=True)
    assert backbone.dim == 1280
    torch.testing.assert_close(backbone(clips), expected, rtol=1e-4, atol=1e-4)
