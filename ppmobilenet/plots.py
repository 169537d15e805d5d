"""Pictures as SVG text: no library, no network, light and dark by the reader's setting.

Every function returns one ``<svg>`` element, for a file (:func:`save`) or inside a page. Colours are CSS variables
``--c0`` to ``--c5`` with a default, text has the colour of the page around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import NamedTuple

from ppmobilenet import files

COLOURS = ("#2563a8", "#c2570c", "#2f855a", "#9b2c6f", "#6b4fbb", "#8a6d00")
NIGHT_COLOURS = ("#6ea8e5", "#f0935a", "#6fcf97", "#e08abf", "#a894f0", "#d9b84a")

_STYLE = (
    "svg.plot{font:13px system-ui,sans-serif}svg.plot text{fill:currentColor}"
    "svg.plot .grid{stroke:currentColor;stroke-opacity:.15}svg.plot .axis{stroke:currentColor;stroke-opacity:.6}"
)


class Line(NamedTuple):
    """One line or cloud of a chart: ``points`` are (x, y); ``labels``, one a point, are shown on hover."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    joined: bool = True
    dashed: bool = False


def colour(index: int) -> str:
    """Return the CSS colour of the ``index``-th line."""
    index %= len(COLOURS)
    return f"var(--c{index},{COLOURS[index]})"


def night_colours() -> str:
    """Return the CSS that sets the lines' colours for a dark page."""
    return ";".join(f"--c{i}:{value}" for i, value in enumerate(NIGHT_COLOURS))


class Axis(NamedTuple):
    """What stands along one side of a chart: ``label`` with its unit, logarithmic or not; ``counts``: of things, so
    its ticks are whole numbers; ``reach`` is its (low, high), by default where the points begin and end."""

    label: str
    log: bool = False
    counts: bool = False
    reach: tuple[float, float] | None = None

    def ends(self, values: Sequence[float]) -> tuple[float, float]:
        """Return where the axis begins and ends."""
        low, high = self.reach or (min(values), max(values))
        if high > low:
            return low, high
        return (low / 2, low * 2) if self.log else (low - 0.5, low + 0.5)

    def ticks(self, low: float, high: float) -> list[float]:
        """Return the numbers that are written on it, between its ends."""
        found = _log_ticks(low, high) if self.log else _ticks(low, high, least=1.0 if self.counts else 0.0)
        slack = 1e-9 * (high - low)
        return [tick for tick in found if low - slack <= tick <= high + slack] or [low, high]

    def share(self, value: float, ends: tuple[float, float]) -> float:
        """Return how far along it a value lies, 0 to 1."""
        low, high = ends
        return log10(value / low) / log10(high / low) if self.log else (value - low) / (high - low)


class _Frame(NamedTuple):
    """The rectangle that the lines of a chart are drawn in."""

    left: float
    top: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height


def chart(lines: Sequence[Line], title: str, x_axis: Axis, y_axis: Axis, *, width: int = 560, height: int = 340) -> str:
    """Return a line or scatter chart with axes, grid and legend.

    Args:
        lines: what to draw; without points nothing of it is drawn.
        title: read out in place of the picture, and its heading.
        x_axis: across.
        y_axis: upwards.
        width: in user units; the picture itself takes the width of its place.
        height: likewise.
    """
    lines = [line for line in lines if len(line.points)]
    x_ends = x_axis.ends([p[0] for line in lines for p in line.points] or [1.0])
    y_ends = y_axis.ends([p[1] for line in lines for p in line.points] or [0.0])
    left, top, right = 66, 34, 24
    # a letter of the page's font is about 7 pixels wide
    column = 34 + 7 * max((len(line.name) for line in lines), default=0)
    across = max(1, min(3, (width - left - right) // column))
    bottom = 46 + 18 * ceil(len(lines) / across)
    frame = _Frame(left, top, width - left - right, height - top - bottom)

    def at(x: float, y: float) -> tuple[float, float]:
        right_of, up = x_axis.share(x, x_ends), y_axis.share(y, y_ends)
        return left + frame.width * right_of, top + frame.height * (1 - up)

    parts = [f'<text x="{left}" y="18" font-weight="600">{escape(title)}</text>']
    rows = [(tick, at(x_ends[0], tick)[1]) for tick in y_axis.ticks(*y_ends)]
    parts += _grid(frame, rows, [(tick, at(tick, y_ends[0])[0]) for tick in x_axis.ticks(*x_ends)])
    x, y = left + frame.width / 2, top + frame.height / 2
    parts.append(f'<text x="{x}" y="{frame.bottom + 34}" text-anchor="middle">{escape(x_axis.label)}</text>')
    turned = f"translate(14 {y}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_axis.label)}</text>')
    for i, line in enumerate(lines):
        parts += _drawn(line, [at(x, y) for x, y in line.points], colour(i))
        x, y = left + (i % across) * frame.width / across, frame.bottom + 52 + 18 * (i // across)
        parts.append(f'<rect x="{x:.1f}" y="{y - 9}" width="12" height="10" rx="2" fill="{colour(i)}"/>')
        parts.append(f'<text x="{x + 17:.1f}" y="{y}">{escape(line.name)}</text>')
    return _svg(parts, width, height, title)


def _grid(frame: _Frame, rows: Sequence[tuple[float, float]], columns: Sequence[tuple[float, float]]) -> list[str]:
    """Lines across for (tick, y), upwards for (tick, x), and the axes."""
    left, top, bottom, parts = frame.left, frame.top, frame.bottom, []
    for tick, y in rows:
        parts.append(f'<line class="grid" x1="{left}" x2="{left + frame.width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick, x in columns:
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>')
    return [*parts, f'<path class="axis" fill="none" d="M{left} {top}V{bottom}H{left + frame.width}"/>']


def _drawn(line: Line, placed: Sequence[tuple[float, float]], ink: str) -> list[str]:
    parts = []
    if line.joined and len(placed) > 1:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<path fill="none" stroke="{ink}" stroke-width="2"{dash} d="{path}"/>')
    if not line.joined or len(placed) <= 40:
        for j, (x, y) in enumerate(placed):
            hover = f"<title>{escape(line.labels[j])}</title>" if line.labels else ""
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{ink}">{hover}</circle>')
    return parts


def bars(rows: Sequence[tuple[str, float]], title: str, unit: str, width: int = 560) -> str:
    """Return horizontal bars, each (name, value)."""
    # a letter of the page's font is about 7 pixels wide
    row_height, left, top, right = 22, max(150, 16 + 7 * max((len(name) for name, _ in rows), default=0)), 34, 90
    most = max((value for _, value in rows), default=0) or 1
    parts = [f'<text x="0" y="18" font-weight="600">{escape(title)}</text>']
    for i, (name, value) in enumerate(rows):
        y = top + i * row_height
        length = max(0.0, (width - left - right) * value / most)
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="15" rx="2" fill="{colour(0)}"/>')
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 14}">{_number(value)} {escape(unit)}</text>')
    return _svg(parts, width, top + row_height * len(rows) + 8, title)


def panels(pictures: Sequence[tuple[str, Sequence[tuple[float, float]]]], title: str, size: int = 150) -> str:
    """Return small pictures side by side, each (caption, path), the path's course shown by its colour."""
    gap, top = 14, 52
    parts = [f'<text x="{gap}" y="20" font-weight="600">{escape(title)}</text>']
    for i, (caption, points) in enumerate(pictures):
        left = gap + i * (size + gap)
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
        mid_x, mid_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
        placed = [
            (left + size * (0.5 + 0.94 * (x - mid_x) / span), top + size * (0.5 - 0.94 * (y - mid_y) / span))
            for x, y in points
        ]
        parts.append(f'<text x="{left + size / 2}" y="{top - 8}" text-anchor="middle">{escape(caption)}</text>')
        frame = f'x="{left}" y="{top}" width="{size}" height="{size}"'
        parts.append(f'<rect class="axis" fill="none" {frame}/>')
        steps = 24
        for k in range(steps):
            piece = placed[k * len(placed) // steps : (k + 1) * len(placed) // steps + 1]
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in piece)
            hue = round(300 * k / steps)
            parts.append(f'<path fill="none" stroke="hsl({hue} 70% 50%)" stroke-width="1.6" d="{path}"/>')
    return _svg(parts, gap + len(pictures) * (size + gap), top + size + gap, title)


def save(svg: str, path: str | Path) -> Path:
    """Write one picture as a file of its own, on white by day and on black by night."""
    day, night = "background:#fff;color:#1a202c", "background:#15181d;color:#e6e8eb;" + night_colours()
    page = f"svg.plot{{{day}}}@media(prefers-color-scheme:dark){{svg.plot{{{night}}}}}"
    files.write_text(path, svg.replace("<style>", f"<style>{page}", 1))
    return Path(path)


def stack(pictures: Sequence[str], title: str) -> str:
    """Return several charts one below the other as one picture."""
    placed, height, width = [], 0, 0
    for picture in pictures:
        w, h = (int(v) for v in picture.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split())
        placed.append(f'<svg y="{height}" width="{w}" height="{h}"' + picture[len("<svg") :])
        height, width = height + h, max(width, w)
    return _svg(placed, width, height, title)


def _svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>' + "".join(parts) + "</svg>"
    )


def _ticks(low: float, high: float, about: int = 5, least: float = 0.0) -> list[float]:
    """Round numbers that include ``low`` and ``high``, some ``about`` of them, ``least`` apart."""
    if high <= low:
        low, high = low - 0.5, low + 0.5
    raw = max((high - low) / about, least)
    base = 10 ** floor(log10(raw))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten that include ``low`` and ``high``."""
    ladder = [m * 10**e for e in range(floor(log10(low)) - 1, ceil(log10(high)) + 2) for m in (1, 2, 5)]
    first = max(i for i, v in enumerate(ladder) if v <= low * 1.0001)
    last = min(i for i, v in enumerate(ladder) if v >= high * 0.9999)
    return ladder[first : max(last, first + 1) + 1]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"
