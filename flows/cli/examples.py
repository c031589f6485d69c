"""One or two examples for the help of every command: the shortest that does something real."""

from __future__ import annotations

from collections.abc import Mapping

import typer
from rich.markup import escape

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "demo": ("scale demo", "scale demo --folder /tmp/demo"),
    "init": ("scale init videos --weights weights", "scale init videos --name mine --out recipes/mine.yaml"),
    "run": ("scale run mine.yaml --data videos --store store", "scale run mine.yaml --dry-run"),
    "catalog": ("scale catalog mine.yaml --data videos --store store",),
    "pretrain": ("scale pretrain mine.yaml --data videos --store store", "scale pretrain mine.yaml --processes 8"),
    "extract": ("scale extract mine.yaml --store store --device cuda", "scale extract mine.yaml --shards 3,7"),
    "train": ("scale train mine.yaml --store store", "scale train mine.yaml --only vicc"),
    "embed": ("scale embed mine.yaml --store store",),
    "probe": ("scale probe mine.yaml --store store",),
    "index": ("scale index mine.yaml --store store",),
    "sweep": ("scale sweep mine.yaml --set train.epochs=20,60 --set seed=0,1,2 --html sweep.html",),
    "info": ("scale info store", "SCALE_STORE=s3://bucket/store scale info"),
    "status": ("scale status store", "scale status store --features grid5x3/slow_r50 --json"),
    "verify": ("scale verify store", "scale verify store --repair"),
    "retry": ("scale retry store --data videos --status unreadable,missing",),
    "import": ("scale import store features.h5 --features grid/net", "scale import store their.h5 --name values=feats"),
    "export": (
        "scale export store --features grid5x3/slow_r50 --out features.h5",
        "scale export store --program mine --out mine.pt2",
    ),
    "query": (
        "scale query store --where \"label = 'run' AND duration_s > 2\"",
        "scale query store --features grid5x3/slow_r50 --out run.npz",
    ),
    "sql": (
        'scale sql store "SELECT label, count(*) FROM mine.videos GROUP BY label"',
        'scale sql store "SHOW TABLES"',
    ),
    "label": ("scale label store --where \"video_id = 'a/1.mp4'\" --label run", "scale label store --csv labels.csv"),
    "remove": ("scale remove store --id a/1.mp4", "scale remove store --where \"label = 'test'\" --erase"),
    "backup": ("scale backup store s3://bucket/backup",),
    "upgrade": ("scale upgrade store",),
    "compact": ("scale compact store",),
    "runs": ("scale runs store",),
    "lineage": ("scale lineage store reports/mine", "scale lineage store reports/mine@1#3"),
    "prune": ("scale prune store --keep 3",),
    "search": (
        "scale search store --video new.mp4 --html found.html",
        "scale search store --id a/1.mp4 --k 5",
        "scale search store --text 'a person who climbs stairs'",
    ),
    "map": ("scale map store", "scale map store --method umap --name neighbours"),
    "compare": ("scale compare mine@1 mine@2 --store store", "scale compare a/report.html b/report.html"),
    "doctor": ("scale doctor", "scale doctor store --device cuda"),
    "audit": ("scale audit store --data videos --crops 64",),
    "deploy": ("SCALE_RECIPE=mine.yaml scale deploy",),
    "serve": ("scale serve store --data videos", "scale serve work=store other=s3://bucket/store"),
    "weights list": ("scale weights list",),
    "weights fetch": ("scale weights fetch NAME",),
    "weights add": ("scale weights add weights/mine.pt2 --name mine",),
}


def add_examples(app: typer.Typer, under: str = "") -> None:
    """Write the examples under the help of every command of an application, those of its groups included."""
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        lines = EXAMPLES.get(f"{under}{name}", ())
        command.epilog = "\n\n".join(["Examples:", *(escape(f"  {line}") for line in lines)]) if lines else None
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_examples(group.typer_instance, f"{under}{group.typer_instance.info.name} ")
