"""The shape of the store: schema version, names of folders and arrays, columns and units.

This is the only file that spells them. Everything in a store is either an ordinary Zarr v3 node or an ordinary
Parquet file; `pipeline/README.md` draws the whole tree.
"""

from __future__ import annotations

import re

import pyarrow as pa

SCHEMA_VERSION = 2
"""Raised whenever an older version of this project could misread what a newer one writes. Older ones stay readable."""

STORE_KIND = "scale-feature-store"

BACKUP_MARK = "_backup.json"
"""In the root of a backup: of which store it is a copy, and since when."""

GEOMETRY_COLUMNS = (
    "start_s", "end_s", "top_px", "left_px", "bottom_px", "right_px", "flip", "stride", "start_frame",
)  # fmt: skip
"""Columns of `geometry`, float32, raw: seconds, source pixels after display rotation, 0/1, signed stride, frame."""

PENDING = "pending"
"""Status of a row that no ledger entry covers, or whose values `verify --repair` dropped."""

FEATURE_DTYPES = ("float16", "float32")

CATALOGUE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("num_frames", pa.int64()),
        pa.field("fps", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("rotation_deg", pa.int32()),
        pa.field("codec", pa.string()),
        pa.field("container_start_s", pa.float64()),
        pa.field("frame_steps_us", pa.list_(pa.int32())),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("start_frame", pa.int64()),
        pa.field("label", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("splits", pa.map_(pa.string(), pa.string())),
        pa.field("group", pa.string()),
        pa.field("probe_error", pa.string()),
        pa.field("added_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""The catalogue, ordered by row. `width` and `height` are after rotation; `probe_error` is null for readable videos.
`container_start_s` is the container's own timestamp of the first frame, which all other times count from.
`frame_steps_us`: microseconds from each frame to the next where they are not evenly spaced; null where they are.
`start_s` and `end_s` bound the part of the file that is the row, and `start_frame` is its first frame; null: the whole
file. All facts from `duration_s` to `fps` are those of the part."""

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("num_valid", pa.int32(), nullable=False),
        pa.field("values_crc32c", pa.uint32(), nullable=False),
        pa.field("valid_crc32c", pa.uint32(), nullable=False),
        pa.field("geometry_crc32c", pa.uint32(), nullable=False),
        pa.field("video_key", pa.uint64()),
    ]
)
"""One ledger entry. The checksums are over the row's little-endian bytes in each array; readers hold arrays to them.
`video_key` says whose row it is (:mod:`pipeline.sets.binding`); null where schema 1 wrote the entry."""

STATUS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("generation", pa.int64()),
    ]
)
"""What `Dataset.status` returns; `generation` is null where no entry covers the row."""

ARTIFACT_KINDS = ("models", "indexes", "reports", "maps")

MAX_ROW_BYTES = 1 << 28
"""Largest row (crops x channels) that is believed; a shape beyond it is a forgery, not a feature."""
MAX_SHARD_ROWS = 65_536
MAX_SHARD_BYTES = 1 << 36
MAX_CROPS = 65_536
MAX_DIM = 1 << 20

ZARR_JSON = "zarr.json"
NUMBER = "(0|[1-9][0-9]{0,11})"
"""A number in a file's name as writers write it. Anything else (``007``, other alphabets' digits, a number that would
fill the memory of who counts up to it) is none of our files."""
_SHARD = re.compile(rf"c\.{NUMBER}(\.0)*\Z")


def catalogue_prefix(dataset: str) -> str:
    """Return the folder of the catalogue's Parquet files."""
    return f"{dataset}/catalog"


def catalogue_key(dataset: str, number: int) -> str:
    """Return the key of one catalogue commit."""
    return f"{dataset}/catalog/videos-{number}.parquet"


def catalogue_copy_key(dataset: str, number: int) -> str:
    """Return the key of its spare copy: the one thing in a store that running again cannot rebuild."""
    return f"{dataset}/catalog/_copies/videos-{number}.parquet"


def catalogue_packs_key(dataset: str) -> str:
    """Return the folder of what is made of many catalogue commits."""
    return f"{dataset}/catalog/packs"


def id_index_key(dataset: str, number: int) -> str:
    """Return the key of a file of the index of video ids: a cache."""
    return f"{dataset}/catalog/packs/ids-{number}.parquet"


def commit_index_key(dataset: str, number: int) -> str:
    """Return the key of a file of the index of commits: a cache."""
    return f"{dataset}/catalog/packs/commits-{number}.parquet"


def crop_set_key(dataset: str, crops: str) -> str:
    """Return the folder of a crop set."""
    return f"{dataset}/crops/{crops}"


def geometry_key(dataset: str, crops: str) -> str:
    """Return the folder of a crop set's geometry array."""
    return f"{dataset}/crops/{crops}/geometry"


def feature_set_key(dataset: str, crops: str, feature_set: str) -> str:
    """Return the folder of a feature set."""
    return f"{dataset}/crops/{crops}/features/{feature_set}"


def feature_ledger_key(dataset: str, crops: str, feature_set: str) -> str:
    """Return the folder of a feature set's ledger."""
    return f"{dataset}/crops/{crops}/ledger/{feature_set}"


def embedding_set_key(dataset: str, name: str) -> str:
    """Return the folder of an embedding set."""
    return f"{dataset}/embeddings/{name}"


def embedding_ledger_key(dataset: str, name: str) -> str:
    """Return the folder of an embedding set's ledger."""
    return f"{dataset}/embeddings/{name}/ledger"


def previews_key(dataset: str) -> str:
    """Return the folder of the small pictures of a dataset's videos."""
    return f"{dataset}/previews"


def packs_key(ledger: str) -> str:
    """Return the folder of a ledger's packs."""
    return f"{ledger}/packs"


def pack_key(ledger: str, number: int) -> str:
    """Return the key of one pack of ledger entries."""
    return f"{ledger}/packs/{number}.parquet"


def pack_copy_key(ledger: str, number: int) -> str:
    """Return the key of its copy: it stands for the work of many shards."""
    return f"{ledger}/packs/_copies/{number}.parquet"


def shard_key(array: str, shard: int, ndim: int) -> str:
    """Return the key of one shard of an array (Zarr's default chunk keys with the separator ``.``: one flat folder)."""
    return f"{array}/c.{shard}" + ".0" * (ndim - 1)


def shard_of(key: str) -> int | None:
    """Return which shard of its array lies under a key; None where the key is no shard's."""
    match = _SHARD.match(key.rpartition("/")[2])
    return int(match[1]) if match else None


def previous_key(ledger: str, array: str, shard: int, generation: int) -> str:
    """Return the key under which a writer keeps committed bytes until their replacement is committed."""
    return f"{ledger}/_previous/{array}-{shard}-{generation}"
