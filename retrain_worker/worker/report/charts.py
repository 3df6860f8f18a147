"""The charts of a page. Each returns one Chart, or None where its run has no data for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from retrain_worker.domain.audit_findings import Finding
from retrain_worker.domain.facts import TrainFacts
from retrain_worker.domain.gates import Bucket
from retrain_worker.domain.labels import Label
from retrain_worker.report.formatting import count, number, share
from retrain_worker.worker.predictions_file import FeatureDistribution, PredictionsInfo
from retrain_worker.worker.report.drawing import PALETTE, SIZE, Chart, Key, canvas, short
from retrain_worker.worker.report.measures import Interval, Measured, Named, Scored
from retrain_worker.worker.statistics import Floats

CANDIDATE, INCUMBENT = Key(kind="candidate", label="candidate"), Key(kind="incumbent", label="incumbent")

_DRIFT = "drift.feature."
_MAX_PARTS = 14
_MAX_FEATURES = 12
_BAND = 0.18
_SECONDS_PER_DAY = 86_400.0
MICROSECONDS_PER_DAY = 86_400.0e6
_PERCENT = FuncFormatter(lambda value, _place: f"{value:.0%}")
#: how lines are drawn, without colour too
INCUMBENT_LINE: dict[str, Any] = {"color": PALETTE["incumbent"], "linestyle": (0, (5, 2))}
BASELINE: dict[str, Any] = {"color": PALETTE["soft"], "linewidth": 1.0, "linestyle": (0, (1, 2))}


def classes(label: Label) -> tuple[str, str]:
    """The names of label 1 and label 0."""
    return ("up", "down") if label is Label.DIRECTION else ("WIN", "LOSS")


# ---------------------------------------------------------------- both models on the holdout


def roc(found: Measured, names: tuple[str, str]) -> Chart:
    """ROC curves with bands."""
    with canvas("roc") as drawn:
        axes = drawn.axes[0]
        axes.plot([0, 1], [0, 1], **BASELINE)
        for model, style in _models(found):
            curve = model.roc()
            axes.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=_BAND, linewidth=0)
            axes.plot(curve.x, curve.y, **style)
        _unit_square(axes, f"false positive rate (share of {names[1]})", f"true positive rate (share of {names[0]})")
        return Chart(
            title="ROC",
            caption=f"Bands: 95 %, bootstrap over {found.candidate.num_blocks} blocks in time. Dotted: no skill.",
            keys=_keys(found),
            svg=drawn.svg(f"ROC curve of the candidate, AUC {_as_text(found.candidate.auc)}"),
        )


def precision_recall(found: Measured, names: tuple[str, str]) -> Chart:
    """Precision-recall curves with bands."""
    with canvas("pr") as drawn:
        axes = drawn.axes[0]
        base = float(found.candidate.labels.mean())
        axes.plot([0, 1], [base, base], **BASELINE)
        lowest = base
        for model, style in _models(found):
            curve = model.precision_recall()
            axes.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=_BAND, linewidth=0)
            axes.plot(curve.x, curve.y, **style)
            lowest = min(lowest, float(curve.low.min()))
        _unit_square(axes, f"recall of {names[0]}", f"precision of {names[0]}")
        axes.set_ylim(max(0.0, np.floor(lowest * 10) / 10 - 0.05), 1.02)
        return Chart(
            title="Precision and recall",
            caption=f"Bands: 95 %. Dotted: the share of {names[0]} in the holdout, {share(base)}.",
            keys=_keys(found),
            svg=drawn.svg(f"precision-recall curve of the candidate for {names[0]}"),
        )


def reliability(candidate: Sequence[Bucket], incumbent: Sequence[Bucket], names: tuple[str, str]) -> Chart | None:
    """Hit rate over probability by bucket, and below it the number of rows of each bucket."""
    if not any(bucket.n for bucket in candidate):
        return None
    with canvas("reliability", 2, 1, size=(SIZE[0], 3.9), sharex=True, height_ratios=(3, 1)) as drawn:
        axes, below = drawn.axes
        axes.plot([0, 1], [0, 1], **BASELINE)
        for buckets, style in ((incumbent, INCUMBENT_LINE), (candidate, {"color": PALETTE["candidate"]})):
            known = [bucket for bucket in buckets if bucket.hit_rate is not None]
            x = floats(bucket.mean_probability for bucket in known)
            axes.plot(x, floats(bucket.hit_rate for bucket in known), marker="o", markersize=4.5, **style)
        for bucket in candidate:
            low, high, place = bucket.hit_rate_low, bucket.hit_rate_high, bucket.mean_probability
            if low is not None and high is not None and place is not None:
                axes.plot([place, place], [low, high], color=PALETTE["candidate"], linewidth=1.2)
        _unit_square(axes, "", f"share of {names[0]} in the rows")
        below.bar(
            [bucket.low for bucket in candidate],
            [bucket.n for bucket in candidate],
            width=[0.92 * (bucket.high - bucket.low) for bucket in candidate],
            align="edge",
            color=PALETTE["candidate"],
            alpha=0.45,
        )
        for bucket in candidate:
            below.text((bucket.low + bucket.high) / 2, bucket.n, count(bucket.n), ha="center", va="bottom", fontsize=8)
        below.set(ylim=(0, max(bucket.n for bucket in candidate) * 1.35), ylabel="rows", xlabel=f"P({names[0]})")
        below.grid(visible=False)
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        keys = (CANDIDATE, INCUMBENT) if incumbent else (CANDIDATE,)
        return Chart(
            title="Reliability",
            caption="Vertical bars: 95 % intervals of the candidate. Dotted: perfectly calibrated. Below: rows of the "
            "candidate by probability.",
            keys=keys,
            svg=drawn.svg("reliability diagram: hit rate by probability, and rows by probability"),
        )


def probabilities(found: Measured, names: tuple[str, str]) -> Chart:
    """Histogram of the candidate's probabilities by outcome."""
    with canvas("histogram") as drawn:
        axes, model = drawn.axes[0], found.candidate
        edges = np.linspace(0, 1, 26)
        for label, colour in ((1, "good"), (0, "bad")):
            values = model.probabilities[model.labels == label]
            options: dict[str, Any] = {"bins": edges, "color": PALETTE[colour]}
            axes.hist(values, **options, alpha=0.16)
            axes.hist(values, **options, histtype="step", linewidth=1.6, linestyle="-" if label else (0, (5, 2)))
        for limit in (model.thresholds.buy, model.thresholds.sell):
            axes.axvline(limit, color=PALETTE["ink"], linewidth=0.8)
        axes.set(xlim=(0, 1), xlabel=f"P({names[0]}) of the candidate", ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        return Chart(
            title=f"P({names[0]}) by outcome",
            caption=f"Vertical lines: BUY above {model.thresholds.buy:g}, SELL below {model.thresholds.sell:g}.",
            keys=(Key(kind="good", label=names[0]), Key(kind="bad", label=names[1])),
            svg=drawn.svg(f"histogram of the probabilities of rows that ended as {names[0]} and as {names[1]}"),
        )


def cumulative_hits(found: Measured, names: tuple[str, str]) -> Chart:
    """Hits over the holdout beyond those of the commoner class."""
    with canvas("hits") as drawn:
        axes = drawn.axes[0]
        axes.axhline(0, **BASELINE)
        for model, style in _models(found):
            commoner = 1 if model.labels.mean() >= 0.5 else 0
            ahead = np.cumsum(model.hits - (model.labels == commoner))
            axes.plot(model.decided_at / MICROSECONDS_PER_DAY, ahead, **style)
        time_axis(axes)
        axes.set(ylabel="hits ahead of the commoner class")
        commoner_name = names[0] if found.candidate.labels.mean() >= 0.5 else names[1]
        return Chart(
            title="Cumulative hits",
            caption=f"Hits so far minus those of a model that always predicts {commoner_name}. A line that rises "
            "steadily is skill; one that rises once is one good stretch.",
            keys=_keys(found),
            svg=drawn.svg("cumulative hits over the holdout beyond those of the commoner class"),
        )


def deciles(found: Measured, names: tuple[str, str]) -> Chart | None:
    """Outcomes and P&L by decile of the candidate's probability."""
    parts = found.candidate.deciles()
    has_pnl = any(part.pnl for part in parts)
    with canvas("deciles", 2 if has_pnl else 1, size=(SIZE[0], 3.9 if has_pnl else SIZE[1]), sharex=True) as drawn:
        places = range(1, len(parts) + 1)
        top = drawn.axes[0]
        top.axhline(float(found.candidate.labels.mean()), **BASELINE)
        top.bar(places, [part.hit_rate.value for part in parts], width=0.7, color=PALETTE["candidate"], alpha=0.45)
        for place, part in zip(places, parts, strict=True):
            _whisker(top, place, part.hit_rate)
        top.set(ylabel=f"share of {names[0]}", ylim=(0, 1))
        top.yaxis.set_major_formatter(_PERCENT)
        if has_pnl:
            below = drawn.axes[1]
            below.axhline(0, color=PALETTE["soft"], linewidth=0.8)
            means = [part.pnl.value if part.pnl else 0.0 for part in parts]
            colours = [PALETTE["good"] if mean >= 0 else PALETTE["bad"] for mean in means]
            below.bar(places, means, width=0.7, color=colours, alpha=0.5)
            for place, part in zip(places, parts, strict=True):
                if part.pnl:
                    _whisker(below, place, part.pnl)
            below.set(ylabel="mean realized P&L")
        drawn.axes[-1].set(xlabel=f"decile of P({names[0]}), lowest first")
        drawn.axes[-1].set_xticks(places)
        for axes in drawn.axes:
            axes.grid(visible=False, axis="x")
        return Chart(
            title="Outcomes and P&L by decile",
            caption="Vertical bars: 95 % intervals. Dotted: all rows. P&L is realized_pnl of the trades as they were "
            "made, whatever the candidate would have done.",
            svg=drawn.svg("share of wins and mean realized profit by decile of the predicted probability"),
        )


# ---------------------------------------------------------------- two runs


def roc_of(models: Sequence[tuple[str, Scored]], names: tuple[str, str]) -> Chart:
    """ROC curves with bands of the candidates of two runs, the later one last."""
    with canvas("roc-of-two") as drawn:
        axes = drawn.axes[0]
        axes.plot([0, 1], [0, 1], **BASELINE)
        styles = (INCUMBENT_LINE, {"color": PALETTE["candidate"]})[-len(models) :]
        for (_run_id, model), style in zip(models, styles, strict=True):
            curve = model.roc()
            axes.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=_BAND, linewidth=0)
            axes.plot(curve.x, curve.y, **style)
        _unit_square(axes, f"false positive rate (share of {names[1]})", f"true positive rate (share of {names[0]})")
        kinds = ("incumbent", "candidate")[-len(models) :]
        return Chart(
            title="ROC",
            caption="Each candidate on its own holdout. Bands: 95 %. Dotted: no skill.",
            keys=tuple(Key(kind=kind, label=f"run {name}") for kind, (name, _) in zip(kinds, models, strict=True)),
            svg=drawn.svg("ROC curves: " + ", ".join(f"run {name} {_as_text(model.auc)}" for name, model in models)),
        )


# ---------------------------------------------------------------- parts of the rows


def areas(title: str, parts: Sequence[Named], *, caption: str, name: str) -> Chart | None:
    """The AUC of each part with its interval, in the given order from above."""
    if not parts:
        return None
    shown = parts[:_MAX_PARTS]
    with canvas(name, size=(SIZE[0], 1.0 + 0.27 * len(shown))) as drawn:
        axes, places = drawn.axes[0], np.arange(len(shown))
        axes.axvline(0.5, **BASELINE)
        for place, part in zip(places, shown, strict=True):
            if part.auc.low is not None and part.auc.high is not None:
                axes.plot([part.auc.low, part.auc.high], [place, place], color=PALETTE["candidate"], linewidth=1.6)
        axes.plot([part.auc.value for part in shown], places, "o", color=PALETTE["candidate"], markersize=5)
        axes.set_yticks(places, [f"{short(part.name)} ({count(part.n)})" for part in shown])
        axes.set(xlabel="AUC", ylim=(len(shown) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        more = f" {len(parts) - len(shown)} more are in the table." if len(parts) > len(shown) else ""
        return Chart(
            title=title,
            caption=f"{caption} Bars: 95 % intervals; in brackets: rows. Dotted: no skill.{more}",
            svg=drawn.svg(f"{title}: " + ", ".join(f"{short(part.name)} {_as_text(part.auc)}" for part in shown)),
        )


def learning(trained: TrainFacts) -> Chart | None:
    """Training loss, validation log loss and validation AUC by epoch."""
    if not trained.history:
        return None
    epochs, losses, validation, auc = (np.array(column, dtype=float) for column in zip(*trained.history, strict=True))
    with canvas("learning", 2, 1, size=(SIZE[0], 3.9), sharex=True, height_ratios=(3, 2)) as drawn:
        axes, below = drawn.axes
        axes.plot(epochs, losses, color=PALETTE["soft"], linestyle=(0, (5, 2)), marker="." if len(epochs) < 3 else "")
        axes.plot(epochs, validation, color=PALETTE["candidate"], marker="." if len(epochs) < 3 else "")
        below.plot(epochs, auc, color=PALETTE["candidate"], marker="." if len(epochs) < 3 else "")
        best = epochs == trained.best_epoch
        for each, values in ((axes, validation), (below, auc)):
            each.plot(epochs[best], values[best], "o", markersize=8, color=PALETTE["good"], fillstyle="none")
        axes.set(ylabel="loss (nats per row)")
        below.set(ylabel="AUC", xlabel="epoch")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        kept = f"Ring: epoch {trained.best_epoch} was kept." if best.any() else ""
        return Chart(
            title="Learning curves",
            caption=f"Below: AUC on the validation part. {kept}".strip(),
            keys=(Key(kind="candidate", label="validation"), Key(kind="soft", label="training")),
            svg=drawn.svg("training loss, validation log loss and validation AUC by epoch"),
        )


# ---------------------------------------------------------------- features


def drift(findings: Sequence[Finding]) -> Chart | None:
    """The distance of each feature from the last promoted run, and the limit of a warning."""
    found = [each for each in findings if each.name.startswith(_DRIFT) and each.measured is not None and each.limit]
    if not found:
        return None
    found.sort(key=lambda each: (each.measured or 0.0) / (each.limit or 1.0), reverse=True)
    shown = found[:_MAX_PARTS]
    with canvas("drift", size=(SIZE[0], 1.0 + 0.27 * len(shown))) as drawn:
        axes, places = drawn.axes[0], np.arange(len(shown))
        over = [(each.measured or 0.0) > (each.limit or 0.0) for each in shown]
        colours = [PALETTE["open" if is_over else "candidate"] for is_over in over]
        axes.barh(places, [each.measured or 0.0 for each in shown], height=0.55, color=colours, alpha=0.55)
        limits = [each.limit or 0.0 for each in shown]
        axes.plot(limits, places, "|", color=PALETTE["ink"], markersize=12, markeredgewidth=1.6)
        axes.set_yticks(places, [short(each.subject) for each in shown])
        axes.set(xlabel="Kolmogorov-Smirnov distance", xlim=(0, None), ylim=(len(shown) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        more = f" {len(found) - len(shown)} more are in the audit findings." if len(found) > len(shown) else ""
        return Chart(
            title="Drift since the last promoted run",
            caption=f"Rows since that run against its rows; upright marks: a warning beyond them.{more}",
            svg=drawn.svg("drift: " + ", ".join(f"{short(each.subject)} {number(each.measured)}" for each in shown)),
        )


def features(info: PredictionsInfo, findings: Sequence[Finding]) -> Chart | None:
    """The distribution of each feature now, over that of the last promoted run; the most drifted ones first."""
    if not info.features:
        return None
    distance = {each.name.removeprefix(_DRIFT): each.measured or 0.0 for each in findings}
    found = sorted(info.features, key=lambda each: distance.get(each.name, 0.0), reverse=True)
    shown = found[:_MAX_FEATURES]
    columns = 2
    rows = -(-len(shown) // columns)
    with canvas("features", rows, columns, size=(SIZE[0], 0.5 + 1.35 * rows)) as drawn:
        for axes, feature in zip(drawn.axes, shown, strict=False):
            _distribution(axes, feature)
        for axes in drawn.axes[len(shown) :]:
            axes.set_axis_off()
        for axes in drawn.axes[::columns]:
            axes.set(ylabel="share")
        which = "the rows since then" if info.is_new_only else "all rows of the snapshot"
        before = Key(kind="soft", label=f"run {info.reference_run}") if info.reference_run else None
        more = f" The {len(shown)} most drifted of {len(found)}." if len(found) > len(shown) else ""
        return Chart(
            title="Features now" + (" and in the last promoted run" if before else ""),
            caption=(f"Now: {which}." if before else "No promoted run to compare with: all rows of the snapshot.")
            + " The outermost bins hold everything beyond."
            + more,
            keys=(Key(kind="candidate", label="now"), *((before,) if before else ())),
            svg=drawn.svg("distribution of each feature: " + ", ".join(short(each.name) for each in shown)),
        )


def _distribution(axes: Axes, feature: FeatureDistribution) -> None:
    edges = np.array(feature.edges)
    axes.stairs(_shares(feature.now), edges, color=PALETTE["candidate"], fill=True, alpha=0.35)
    if feature.before:
        axes.stairs(_shares(feature.before), edges, color=PALETTE["soft"], linewidth=1.4)
    axes.set_title(short(feature.name), loc="left")
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.tick_params(labelsize=8)


# ---------------------------------------------------------------- pieces


def _models(found: Measured) -> list[tuple[Scored, dict[str, Any]]]:
    """The incumbent first: the candidate is drawn above it."""
    models = [(found.incumbent, INCUMBENT_LINE)] if found.incumbent is not None else []
    return [*models, (found.candidate, {"color": PALETTE["candidate"]})]


def _keys(found: Measured) -> tuple[Key, ...]:
    return (CANDIDATE, INCUMBENT) if found.incumbent is not None else (CANDIDATE,)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)


def _whisker(axes: Axes, place: float, found: Interval) -> None:
    if found.low is not None and found.high is not None:
        axes.plot([place, place], [found.low, found.high], color=PALETTE["ink"], linewidth=1.1)


def _shares(counts: Sequence[int]) -> Floats:
    found = np.array(counts, dtype=np.float64)
    shares: Floats = found / max(found.sum(), 1.0)
    return shares


def floats(values: Iterable[float | None]) -> Floats:
    """As an array; None is a gap."""
    found: Floats = np.array(list(values), dtype=np.float64)
    return found


def days(instants: Iterable[datetime]) -> Floats:
    """Days since 1970, the numbers of matplotlib's axes of time."""
    return floats(at.timestamp() / _SECONDS_PER_DAY for at in instants)


def time_axis(axes: Axes) -> None:
    """Few labels, each as short as possible; the range is in the axis title."""
    first, last = (dates.num2date(end) for end in axes.get_xlim())
    locator = dates.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        dates.ConciseDateFormatter(
            locator,
            formats=["%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"],
            zero_formats=["%Y", "%b %Y", "%d %b", "%d %b", "%H:%M", "%H:%M"],
            show_offset=False,
        )
    )
    until = f" to {last:%Y-%m-%d}" if first.date() != last.date() else ""
    axes.set_xlabel(f"time (UTC), {first:%Y-%m-%d}{until}")


def _as_text(found: Interval | None) -> str:
    if found is None:
        return "not measured"
    return number(found.value) + (f" ({number(found.low)} to {number(found.high)})" if found.low is not None else "")
