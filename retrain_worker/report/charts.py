"""The charts of a page as inline SVG: reliability diagram, training history, bullet chart of a check.

The colours are the page's CSS variables. Text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from retrain_worker.domain.gates import Bucket, Check
from retrain_worker.report.formatting import count, number, share

_WIDTH, _HEIGHT = 380, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 14, 34
_COUNTS_HEIGHT = 46


def reliability(candidate: Sequence[Bucket], incumbent: Sequence[Bucket] = ()) -> str:
    """Hit rate over probability by bucket, and below it the number of rows of each bucket.

    The candidate's hit rates have error bars.
    """
    parts = [
        _frame(),
        _axis(("0", "0.25", "0.5", "0.75", "1"), ("0", "0.25", "0.5", "0.75", "1")),
        _line([(0, 0), (1, 1)], "ideal"),
    ]
    for name, buckets in (("incumbent", incumbent), ("candidate", candidate)):
        found = [bucket for bucket in buckets if bucket.hit_rate is not None]
        parts.append(_line([_place(bucket, bucket.hit_rate) for bucket in found], name))
        parts += [_dot(bucket, name) for bucket in found]
        parts += [
            _line([_place(bucket, end) for end in (bucket.hit_rate_low, bucket.hit_rate_high)], name)
            for bucket in found
            if name == "candidate" and bucket.hit_rate_low is not None
        ]
    most = max((bucket.n for bucket in candidate), default=0) or 1
    parts += [_column(bucket, most) for bucket in candidate]
    return _svg(
        "reliability diagram: hit rate by probability, and rows by probability", parts, height=_HEIGHT + _COUNTS_HEIGHT
    )


def history(epochs: Sequence[Sequence[float]], *, best_epoch: int | None) -> str:
    """Training loss and validation log loss over epochs of (number, training loss, log loss, ...)."""
    losses = [value for epoch in epochs for value in epoch[1:3]]
    low, high = min(losses), max(losses)
    height, first, length = (high - low) or 1.0, epochs[0][0], (epochs[-1][0] - epochs[0][0]) or 1

    def place(epoch: Sequence[float], value: float) -> tuple[float, float]:
        return (epoch[0] - first) / length, (value - low) / height

    parts = [
        _frame(),
        _axis((f"{first:.0f}", f"{epochs[-1][0]:.0f}"), (number(low), number((low + high) / 2), number(high))),
    ]
    parts.append(_line([place(epoch, epoch[1]) for epoch in epochs], "incumbent"))
    parts.append(_line([place(epoch, epoch[2]) for epoch in epochs], "candidate"))
    for epoch in epochs:
        if epoch[0] == best_epoch:
            x, y = _point(*place(epoch, epoch[2]))
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="best"><title>epoch {epoch[0]:.0f} was kept: '
                f"log loss {number(epoch[2], 4)}</title></circle>"
            )
    return _svg("training loss and validation log loss by epoch", parts)


def bar(check: Check) -> str:
    """Bullet chart of a check: the measurement as a dot on its scale, the required range shaded."""
    low, high = check.scale
    span = (high - low) or 1.0

    def across(value: float) -> float:
        return 6 + 228 * min(max((value - low) / span, 0.0), 1.0)

    start = across(low if check.low is None else check.low)
    end = across(high if check.high is None else check.high)
    parts = [
        '<rect x="6" y="9" width="228" height="6" rx="3" class="scale"/>',
        f'<rect x="{start:.1f}" y="9" width="{max(end - start, 1):.1f}" height="6" rx="3" class="allowed"/>',
    ]
    parts += [
        f'<line x1="{across(limit):.1f}" x2="{across(limit):.1f}" y1="4" y2="20" class="limit"/>'
        for limit in (check.low, check.high)
        if limit is not None
    ]
    if check.value is not None:
        kind = "inside" if check.is_met else "outside"
        parts.append(f'<circle cx="{across(check.value):.1f}" cy="12" r="6" class="{kind}"/>')
    label = escape(f"{check.measured}, required {check.required}")
    return (
        f'<svg class="bar" viewBox="0 0 240 24" role="img" aria-label="{label}"><title>{label}</title>'
        f"{''.join(parts)}</svg>"
    )


# ---------------------------------------------------------------- pieces


def _svg(name: str, parts: Iterable[str], *, height: int = _HEIGHT) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'


def _point(across: float, up: float) -> tuple[float, float]:
    """Fractions of the frame as coordinates of the chart."""
    return (_LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM))


def _frame() -> str:
    (left, bottom), (right, top) = _point(0, 0), _point(1, 1)
    return f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" class="frame"/>'


def _axis(across: Sequence[str], up: Sequence[str]) -> str:
    """Labels spread evenly along both axes."""
    found = []
    for place, text in enumerate(across):
        x, y = _point(place / max(len(across) - 1, 1), 0)
        found.append(f'<text x="{x:.0f}" y="{y + 17:.0f}" text-anchor="middle">{escape(text)}</text>')
    for place, text in enumerate(up):
        x, y = _point(0, place / max(len(up) - 1, 1))
        found.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{escape(text)}</text>')
    return "".join(found)


def _line(places: Sequence[tuple[float, float]], kind: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_point(*place) for place in places))
    return f'<polyline points="{points}" class="{kind}"/>' if points else ""


def _place(bucket: Bucket, rate: float | None) -> tuple[float, float]:
    return bucket.mean_probability or 0.0, rate or 0.0


def _dot(bucket: Bucket, kind: str) -> str:
    x, y = _point(*_place(bucket, bucket.hit_rate))
    text = (
        f"{kind}: {count(bucket.n)} rows, mean probability {share(bucket.mean_probability)}, "
        f"hit rate {share(bucket.hit_rate)}"
    )
    if bucket.hit_rate_low is not None:
        text += f" ({share(bucket.hit_rate_low)} to {share(bucket.hit_rate_high)})"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{kind}"><title>{escape(text)}</title></circle>'


def _column(bucket: Bucket, most: int) -> str:
    (left, _), (right, _) = _point(bucket.low, 0), _point(min(bucket.high, 1.0), 0)
    height = (_COUNTS_HEIGHT - 18) * bucket.n / most
    floor = _HEIGHT + _COUNTS_HEIGHT - 2
    return (
        f'<rect x="{left + 1:.1f}" y="{floor - height:.1f}" width="{right - left - 2:.1f}" height="{height:.1f}" '
        f'class="count"/><text x="{(left + right) / 2:.0f}" y="{floor - height - 3:.0f}" '
        f'text-anchor="middle">{count(bucket.n)}</text>'
    )
