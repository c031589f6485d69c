"""The loss curves of the models behind a report, with the level at which nothing has been learned."""

from __future__ import annotations

from probe.pages import charts
from probe.pages.report_view import ChartCard
from probe.results import ProbeReport, Training

MAX_LINES = 12


def training_cards(report: ProbeReport) -> list[ChartCard]:
    """Return one chart a model."""
    return [_card(one) for one in report.trainings if one.loss]


def _card(one: Training) -> ChartCard:
    title = f"Model {one.model} ({one.objective}), {one.num_steps} steps"
    words = f"from {one.loss[0]:.4g} to {one.loss[-1]:.4g}"
    if one.chance is not None:
        words += f"; guessing gives {one.chance:.4g}"
    svg = charts.line_chart(
        [charts.Series("loss", one.steps, one.loss)],
        label=f"Line chart. Training loss of model {one.model}: {words}.",
        x_label="step",
        y_label="training loss",
        percent=False,
        reference=None if one.chance is None else (one.chance, "guessing"),
    )
    every = max(1, -(-len(one.steps) // MAX_LINES))
    kept = sorted({*range(0, len(one.steps), every), len(one.steps) - 1})
    lines = tuple((f"{one.steps[i]:g}", f"{one.loss[i]:.4g}") for i in kept)
    return ChartCard(title, svg, (f"loss {words}",), ("Step", "Training loss"), lines)
