"""Draws `lanes.svg`, the picture of the README: a training loop, its events, and the three ways that they take.

Run it as `python -m docs.picture`; a test compares the file with what it would draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

FILE = Path(__file__).parent / "lanes.svg"
WIDTH, HEIGHT = 940, 382

LOOP = """\
train_begin
for each epoch:
  epoch_begin
  for each batch:
    batch_begin
    backward_begin
    backward_end
    optimizer_step
    optimizer_stepped
    batch_end
  validation_begin
  validation_end
  epoch_end
  checkpoint_saved
train_end"""

IN_STEP = (
    "in step",
    "a hook, early stopping, progress bars:",
    "sees the batch and the gradients,",
    "adds metrics, steers the run",
)
ASYNCHRONOUS = (
    "asynchronous",
    "a service, a request now and then:",
    "a bounded mailbox for each listener,",
    "served on a thread or an event loop",
)
RECORD = (
    "the run's record",
    "runs/<run>/events.jsonl:",
    "a line for each event, which events tail,",
    "runs plot and streams read as well",
)
TRACKERS = (
    "at least once, in order",
    "MLflow, W&B, TensorBoard:",
    "slow, down or killed,",
    "they are told the rest later",
)
"""A box's title and what stands below it."""

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.code { font: 12.5px ui-monospace, monospace }
.quiet { fill: #57606a }
.paper { fill: #ffffff }
.process { fill: #f6f8fa; stroke: #8c959f; stroke-dasharray: 5 4 }
.box { fill: #ffffff; stroke: #8c959f }
.lane { fill: #ddf4ff; stroke: #0969da }
.arrow { fill: none; stroke: #0969da; stroke-width: 1.6; marker-end: url(#head) }
.head { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .paper { fill: #0d1117 }
  .process { fill: #151b23; stroke: #656c76 }
  .box { fill: #0d1117; stroke: #656c76 }
  .lane { fill: #0c2d4d; stroke: #4493f8 }
  .arrow { stroke: #4493f8 }
  .head { fill: #4493f8 }
}"""


def drawing() -> str:
    """The picture as SVG, in light and dark."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            "<title>The loop publishes events, which listeners get in step, beside it, or in another process</title>",
            f"<style>\n{STYLE}\n</style>",
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
            '<path class="head" d="M0 0 8 4 0 8Z"/></marker>',
            f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            *_box("process", (12, 12, 588, 358), "the process that trains"),
            *_box("box", (28, 48, 190, 306), "the loop", *LOOP.splitlines(), kind="code"),
            *_box("lane", (290, 48, 294, 88), *IN_STEP),
            *_box("lane", (290, 157, 294, 88), *ASYNCHRONOUS),
            *_box("lane", (290, 266, 294, 88), *RECORD),
            *_box("process", (644, 230, 284, 140), "the relay, a process of its own"),
            *_box("box", (660, 266, 252, 88), *TRACKERS),
            *(_arrow(218, y, 290) for y in (92, 201, 310)),
            _arrow(584, 310, 660),
            '<text class="quiet" x="228" y="84">emit</text>',
            "</svg>\n",
        ]
    )


def _box(style: str, place: tuple[int, int, int, int], title: str, *lines: str, kind: str = "") -> Iterator[str]:
    """A rectangle at (x, y, width, height), in pixels, with its title and the lines below it."""
    x, y, width, height = place
    yield f'<rect class="{style}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    yield f'<text class="title" x="{x + 12}" y="{y + 22}">{escape(title)}</text>'
    for number, line in enumerate(lines):
        text = line.lstrip()
        indent = 7 * (len(line) - len(text))
        style = kind if kind and not text.endswith(":") else f"{kind} quiet".strip()
        yield f'<text class="{style}" x="{x + 12 + indent}" y="{y + 42 + 18 * number}">{escape(text)}</text>'


def _arrow(x: int, y: int, to: int) -> str:
    return f'<path class="arrow" d="M{x} {y}H{to - 2}"/>'


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
