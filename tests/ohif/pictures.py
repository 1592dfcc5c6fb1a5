"""The screenshots that tests/acceptance/test_ohif.py left in, the small pictures of docs/viewers.md out.

They show drawn films of nobody: no other test's screenshots are taken.
"""

from pathlib import Path
from typing import Final

from PIL import Image

PROJECT: Final = Path(__file__).resolve().parents[2]
SHOTS: Final = PROJECT / "build" / "screenshots"
PICTURES: Final = PROJECT / "docs" / "pictures"
NAMES: Final = ("ohif-worklist", "ohif-rectangle", "ohif-report", "ohif-picture", "ohif-answer", "ohif-link")
WIDTH: Final = 960
HALF: Final = 128  # of a palette: films are grey, and what is drawn over them is not
LARGEST: Final = 200_000  # bytes


def small(name: str) -> None:
    """Write one picture. ValueError when it is too large for a document."""
    with Image.open(SHOTS / f"{name}.png") as shot:
        size = WIDTH, round(shot.height * WIDTH / shot.width)
        picture = shot.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    target = PICTURES / f"{name}.png"
    picture.quantize(palette=palette(picture), dither=Image.Dither.NONE).save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        raise ValueError(f"{target}: over {LARGEST} bytes")


def palette(picture: Image.Image) -> Image.Image:
    """An image that has a palette of greys and of the picture's own colours, rare ones too."""
    greys = [level * 255 // (HALF - 1) for level in range(HALF) for _ in "RGB"]
    colours = picture.quantize(HALF, Image.Quantize.MAXCOVERAGE).getpalette() or []
    both = Image.new("P", (1, 1))
    both.putpalette(greys + colours)
    return both


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for each in NAMES:
        small(each)
