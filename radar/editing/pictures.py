"""Pictures of edits: before, hole and after below each other, and how the hole was decoded. Legend: B images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from radar.editing.edits import Edited, Editor, blended
from radar.editing.holes import pixels_of
from radar.sampling.sampler import Trace
from radar.scoring.sample_pictures import film_frame
from radar.sheets import captioned, overlay, pixel_scale, save_gif, save_image, tile

HOLE = (86, 180, 233)  # sky blue, as Okabe and Ito chose it
SHOWN = 10  # images in a row of a picture


def holes(edited: Edited, grid: tuple[int, int]) -> Tensor:
    """Images (B, 3, H, W) before, with holes in a colour that grey images do not have."""
    pixels = pixels_of(edited.hidden, edited.before, grid)
    return torch.where(pixels, torch.tensor(HOLE, dtype=torch.uint8).view(1, 3, 1, 1), edited.before)


def save_sheet(
    edited: Edited, grid: tuple[int, int], names: Sequence[str], blur: float, path: Path, beyond: bool
) -> None:
    """Write rows before, hole and after (blended by `blur` pixels), with a column per image, for the first of them.

    What lies beyond the border of an image was nothing before: then there are two rows.
    """
    first = Edited(**{name: getattr(edited, name)[:SHOWN] for name in Edited.__dataclass_fields__})
    after = blended(first, grid, blur) if blur else first.after
    rows = {"before": first.before, "hole": holes(first, grid), "after, blended" if blur else "after": after}
    if beyond:
        del rows["before"]
    sheet = tile(torch.cat([*rows.values()]), len(first.before), pixel_scale(after.shape[3]))
    save_image(captioned(sheet, names[:SHOWN], [*rows]), path)


def save_film(
    editor: Editor, images: Tensor, edited: Edited, numbers: Sequence[int], names: Sequence[str], path: Path
) -> None:
    """Write an animation of how the first of `images` were edited, pass by pass; one whose hole is done rests."""
    films = [film(editor, images, edited, row, numbers[row]) for row in range(min(SHOWN, len(numbers)))]
    length = max(map(len, films))
    scale = pixel_scale(edited.before.shape[3])
    frames = []
    for k in range(length):
        images = torch.cat([each[min(k, len(each) - 1)] for each in films])
        title = "result" if k + 1 == length else f"pass {k} of {length - 2}" if k else "hole"
        frames.append(film_frame(images, names[:SHOWN], scale, title))
    save_gif(frames, path)


def film(editor: Editor, images: Tensor, edited: Edited, row: int, number: int) -> list[Tensor]:
    """Frames (1, 3, H, W) of one image: its hole, every pass, the result."""
    trace, grid, some = Trace(), editor.generator.grid, slice(row, row + 1)
    editor(images[some], edited.own[some], [number], trace)
    known, frames = ~edited.hidden[some], [holes(edited, grid)[some]]
    pixels = pixels_of(edited.hidden[some], edited.before[some], grid)
    for tokens, written, revised in zip(trace.tokens, trace.written, trace.revised, strict=True):
        known = known | written
        drawn = editor.generator.tokenizer.decode(tokens.to(editor.generator.module.device), grid).cpu()
        shown = torch.where(pixels, drawn, edited.before[some])
        frames.append(overlay(shown, written, revised, known, grid))
    return [*frames, edited.after[some]]
