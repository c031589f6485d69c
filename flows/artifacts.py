"""What a run leaves for people in the Prefect UI: pure text builders, and one function that publishes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipeline.look import tables
from pipeline.look.tables import escape
from pipeline.reports import StageReport, doubts_of
from pipeline.stage import StagePlan

MAX_LINES = 50
"""Artifacts live in Prefect's database; the whole list is in the store."""

UNITS = {"decode": "frames", "preprocess": "crops", "forward": "crops", "write": "rows"}
"""What extraction counts of each of its parts."""


def plan_markdown(plan: StagePlan) -> str:
    """Describe a plan: the one-line summary and the first units of work with their reasons."""
    lines = list(plan.table())
    return f"## Plan: {plan.stage}\n\n{escape(plan.summary())}\n\n{markdown_table(lines)}"


def report_markdown(report: StageReport) -> str:
    """Describe what a stage did: counts, throughput, failures by reason, provenance."""
    lines = [f"## {report.stage} of {escape(report.recipe)}", ""]
    lines.append(markdown_table([{"count": name.replace("_", " "), "value": n} for name, n in report.did.items()]))
    lines.append(f"\n**Time** {report.seconds:.1f} s, **written** {report.num_bytes / 2**20:.1f} MiB\n")
    if rates := report.details.get("rates"):
        busy, speed = rates["busy_seconds"], rates["per_busy_second"]
        table = [
            {"part": p, "busy s": f"{busy[p]:.1f}", "a busy second": f"{v:.1f} {UNITS[p]}"} for p, v in speed.items()
        ]
        lines.append("### Throughput\n\n" + markdown_table(table))
    lines.append(doubts_markdown([report]))
    if report.skipped:
        lines.append(f"\n### Videos with a status ({len(report.skipped)})\n")
        by_reason = Counter((video.status, video.error.split("\n")[0][:120]) for video in report.skipped)
        reasons = [{"status": s, "videos": n, "reason": e} for (s, e), n in by_reason.most_common()]
        lines.append(markdown_table(reasons))
    lines.append(f"\nfingerprint `{report.fingerprint[:16]}` snapshot `{report.snapshot[:16]}`")
    return "\n".join(lines)


def add_rates(parts: Sequence[StageReport]) -> dict[str, dict[str, float]]:
    """Return the rates of several parts of one extraction together: seconds added, speeds weighted by them."""
    busy: Counter[str] = Counter()
    units: Counter[str] = Counter()
    for part in parts:
        rates = part.details.get("rates", {"busy_seconds": {}, "per_busy_second": {}})
        for name, seconds in rates["busy_seconds"].items():
            busy[name] += seconds
            units[name] += seconds * rates["per_busy_second"].get(name, 0.0)
    speeds = {name: round(units[name] / seconds, 2) for name, seconds in busy.items() if seconds > 0}
    return {"busy_seconds": {name: round(seconds, 3) for name, seconds in busy.items()}, "per_busy_second": speeds}


def doubts_markdown(reports: Sequence[StageReport]) -> str:
    """Return which results of a run should not be believed or used, as a list; empty where there is no doubt."""
    lines = [f"- {escape(text)}" for text in doubts_of(*reports)]
    return "\n".join(["### Doubts", "", *lines, ""]) if lines else ""


def did_line(report: StageReport) -> str:
    """Return what a stage did in a few words: ``14 shards done, 12 videos ok``."""
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in report.did.items() if n) or "nothing to do"


def run_markdown(reports: Sequence[StageReport]) -> str:
    """Describe a whole run: what each stage did, how long it took, and the probe numbers."""
    stages = [
        {
            "stage": report.stage,
            "did": did_line(report),
            "seconds": f"{report.seconds:.1f}",
        }
        for report in reports
    ]
    lines = [f"## Run of {escape(reports[0].recipe)}", "", markdown_table(stages), doubts_markdown(reports)]
    if probes := [probe for report in reports for probe in report.details.get("probes", [])]:
        lines += ["### Probes", "", markdown_table(probe_lines(probes))]
    return "\n".join(lines)


def probe_lines(probes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the probe table's lines: one a number, with interval and coverage."""
    return [
        {
            "probe": p.get("probe"),
            "features": p.get("feature_set") or p.get("features") or "",
            "split": p.get("split") or "",
            "readout": probe_readout(p, probes),
            "setting": probe_setting(p),
            "top-1 %": round(100 * p["top1"], 1) if p.get("top1") is not None else None,
            "95 % interval": " - ".join(f"{100 * x:.1f}" for x in p["interval"]) if p.get("interval") else "",
            "used": p.get("used"),
            "excluded": p.get("excluded"),
        }
        for p in probes
    ]


def probe_readout(probe: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> str:
    """Return the readout, with the embedding set that was read where the probes read several: ``cls of vicc``."""
    embeddings = {p["embedding"] for p in probes if p.get("embedding")}
    is_one_of_several = len(embeddings) > 1 and probe.get("embedding")
    return f"{probe.get('readout')} of {probe['embedding']}" if is_one_of_several else str(probe.get("readout"))


def probe_setting(probe: Mapping[str, Any]) -> str:
    """Return what tells a number from its neighbours: ``k=20 T=0.07 centring=train``."""
    if (probe.get("k_used") or probe.get("k") or 0) < (probe.get("k") or 0):  # as many neighbours as there are
        probe = {**probe, "k": probe["k_used"]}
    names = {"k": "k", "temperature": "T", "centring": "centring", "selection": "", "fraction": "labels"}
    shown = {key: probe[key] for key in names if probe.get(key) and (key, probe[key]) != ("fraction", 1.0)}
    return " ".join(f"{names[key]}={value}" if names[key] else str(value) for key, value in shown.items())


def markdown_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of at most 50 lines, then a count."""
    return tables.markdown_table(lines, max_lines=MAX_LINES)


def artifact_key(*parts: str) -> str:
    """Return a key as Prefect wants it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def page_address(report: StageReport, pages: str | None) -> str | None:
    """Return where `scale serve` shows a report; None where no page is known, or the report has none.

    Parameters
    ----------
    report : StageReport
        Of the stage `probe`; its details name the artifact, ``dataset/reports/name``.
    pages : str or None
        Address of the store at `scale serve`: ``http://host:8500/store``.
    """
    artifact = str(report.details.get("artifact") or "")
    return f"{pages.rstrip('/')}/{quote(artifact)}/page" if pages and artifact else None
