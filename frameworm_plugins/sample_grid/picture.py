"""Images, side by side in one PNG, with a caption each; the door to Pillow."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from frameworm.errors import UserError

SIDE = 64  # pixels that the shorter side of an image has at least: eight pixels of digits are hard to see
GAP = 4
CAPTION = 14


def require_pillow() -> None:
    """Raise `UserError` where Pillow is not installed."""
    if find_spec("PIL") is None:
        raise UserError("pictures need Pillow, which is not installed", hint="pip install 'frameworm[images]'")


def save(images: Tensor, captions: Sequence[str], path: Path) -> None:
    """Write images (n, channels, height, width), n > 0, one or three channels, to a PNG at `path`, all at once or not.

    Values from 0 to 1 are black to white; where any is outside, the least is black and the greatest white. `captions`
    are n texts, or none. Raises OSError.
    """
    from PIL import Image, ImageDraw  # noqa: PLC0415  wanted where a picture is, and an extra

    pixels = _bytes(images)
    count, height, width, _ = pixels.shape
    scale = max(1, math.ceil(SIDE / min(height, width)))
    across = math.ceil(math.sqrt(count))
    step_x, step_y = width * scale + GAP, height * scale + GAP + (CAPTION if captions else 0)
    grid = Image.new("RGB", (across * step_x + GAP, math.ceil(count / across) * step_y + GAP), "white")
    draw = ImageDraw.Draw(grid)
    for index, image in enumerate(pixels):
        left, top = GAP + index % across * step_x, GAP + index // across * step_y
        picture = Image.fromarray(image.numpy()).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        grid.paste(picture, (left, top))
        if captions:
            draw.text((left, top + height * scale), captions[index], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        whole = Path(folder, path.name)
        grid.save(whole, "PNG")
        whole.replace(path)


def _bytes(images: Tensor) -> Tensor:
    """Return images as (n, height, width, 3), uint8, on the CPU."""
    values = torch.nan_to_num(images.detach().float()).cpu()
    least, greatest = values.min(), values.max()
    if least < 0 or greatest > 1:
        values = (values - least) / (greatest - least).clamp_min(torch.finfo(values.dtype).tiny)
    return (values.expand(-1, 3, -1, -1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
