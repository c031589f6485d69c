"""What all backbones share: which crops they see, what they take, where weights come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.recipe.backbones.text import TextTower
from pipeline.recipe.base import LATER, Spec

Stream = Literal["rgb", "tgrad", "flow", "flow_turned", "foreground", "audio"]


class WeightsFile(Spec):
    """A local weights file. Never fetched from a network, never unpickled."""

    path: str
    """Looked for in the weights folder, the data folder, the recipe's folder, the working folder."""
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    """Checked before loading."""
    network: Literal["online", "momentum"] = "online"
    """Which copy a self-supervised checkpoint is read from (`backbone.` or `backbone_hist.`)."""


class NamedWeights(Spec):
    """Weights by the name under which `scale weights fetch` or `add` locked their hash on this machine."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    network: Literal["online", "momentum"] = "online"
    """As for a file."""


class RandomWeights(Spec):
    """Untrained weights from a seed. Reports say so."""

    random: int = Field(ge=0)


def _weights_kind(given: Any) -> str:
    for kind, key, spec in (("random", "random", RandomWeights), ("named", "name", NamedWeights)):
        if key in given if isinstance(given, dict) else isinstance(given, spec):
            return kind
    return "file"


Weights = Annotated[
    Annotated[WeightsFile, Tag("file")]
    | Annotated[NamedWeights, Tag("named")]
    | Annotated[RandomWeights, Tag("random")],
    Discriminator(_weights_kind),
]


class BackboneBase(Spec):
    """What all backbones share."""

    learns: ClassVar[bool] = True
    """Whether it is a network whose weights can be trained: what random ones give is then said in reports."""
    crops: tuple[str, ...] | None = None
    """Crop sets to see; None: all."""
    streams: tuple[Stream, ...] = ("rgb",)
    num_frames: int | None = Field(None, ge=1)
    """Frames the network takes, spread evenly over the crop's; None: all of the crop's."""
    size_px: int | None = Field(None, ge=8)
    """Side of its input; None: what the network is fixed to, else the crop set's."""
    mean: tuple[float, float, float] | None = None
    """Of RGB in 0..1; None: the model's own."""
    std: tuple[float, float, float] | None = None
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored features."""
    precision: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of convolutions and matrix products on a GPU; bfloat16 for networks that overflow float16. A CPU computes in
    float32 whatever stands here."""
    text: Annotated[TextTower | None, LATER] = None
    """Its text tower, for `scale search --text` and zero-shot probes. Features do not depend on it."""

    @model_validator(mode="after")
    def _hears_with_ears(self) -> BackboneBase:
        if "audio" in self.streams and self.kind != "audio":
            raise ValueError(f"expected a backbone of the kind audio for the stream audio, found {self.kind}")
        return self

    if TYPE_CHECKING:  # fields of each kind

        @property
        def kind(self) -> str:
            """Name of the kind."""

        @property
        def weights(self) -> WeightsFile | NamedWeights | RandomWeights | None:
            """Where its weights come from; None for a pretrained network that is only named yet."""


def feature_set_name(backbone: str, stream: Stream = "rgb") -> str:
    """Name of the feature set: the backbone, plus the stream where it is not rgb."""
    return backbone if stream == "rgb" else f"{backbone}-{stream}"
