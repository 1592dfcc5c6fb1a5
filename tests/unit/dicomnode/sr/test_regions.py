"""regions: a box is cut to its image, and too little or nothing left is refused."""

import pytest

from dicomnode.errors import RoiError
from dicomnode.sr.regions import GraphicType, SrRoi, clamped
from encoder.boxes import Box


def _roi(*box: float) -> SrRoi:
    return SrRoi(image_uid="1.2", graphic_type=GraphicType.POLYLINE, points=((0, 0),), box=Box(*box))


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((10, 20, 60, 90), (10, 20, 60, 90)),
        ((0, 0, 200, 100), (0, 0, 200, 100)),
        ((-50, -50, 10, 10), (0, 0, 10, 10)),
        ((150, 50, 900, 900), (150, 50, 200, 100)),
        ((-1e30, -1e30, 1e30, 1e30), (0, 0, 200, 100)),
        ((10, 10, 14, 14), (10, 10, 14, 14)),
    ],
)
def test_cut_to_the_image(box: tuple[float, ...], inside: tuple[float, ...]) -> None:
    assert clamped(_roi(*box), columns=200, rows=100) == Box(*inside)


@pytest.mark.parametrize(
    "box", [(-50, 10, -1, 60), (-50, 10, 0, 60), (200, 10, 250, 60), (10, 100, 60, 150), (10, -60, 60, -10)]
)
def test_outside(box: tuple[float, ...]) -> None:
    with pytest.raises(RoiError, match="outside the image"):
        clamped(_roi(*box), columns=200, rows=100)


@pytest.mark.parametrize("box", [(10, 10, 13, 60), (10, 10, 60, 13.9), (10, 10, 10, 10), (197, 10, 260, 60)])
def test_too_small(box: tuple[float, ...]) -> None:
    with pytest.raises(RoiError, match="under 4 pixels"):
        clamped(_roi(*box), columns=200, rows=100)
