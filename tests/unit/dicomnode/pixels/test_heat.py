"""The picture laid over a film: clear at 0, bright where much was lost, blue where covering made it more alike."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dicomnode.pixels import heat


def drawn(*rows):
    with Image.open(BytesIO(heat.picture(np.array(rows, np.float32)))) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGBA")
        return np.asarray(picture)


def cell(pixels, row, column):
    """The middle of a cell: red, green, blue, opacity."""
    middle = heat.CELL // 2
    return pixels[row * heat.CELL + middle, column * heat.CELL + middle].astype(int)


def light(colour):
    return colour[:3] @ [0.2126, 0.7152, 0.0722]


def test_each_cell_is_where_it_is_in_the_map():
    pixels = drawn([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0.1, 0])
    assert pixels.shape == (3 * heat.CELL, 4 * heat.CELL, 4)
    row, column = np.unravel_index(pixels[..., 3].argmax(), pixels.shape[:2])
    assert (row // heat.CELL, column // heat.CELL) == (2, 2)
    assert cell(pixels, 0, 0)[3] == 0


def test_more_is_lighter_and_more_opaque_and_the_scale_is_the_map_s_own():
    pixels = drawn([0.0, 0.0, 0.0, 0.01, 0.01, 0.01, 0.02, 0.02, 0.02])
    faint, middle, most = (cell(pixels, 0, column) for column in (1, 4, 7))
    assert faint[3] < middle[3] < most[3]
    assert light(middle) < light(most)
    assert most[0] > most[2] + 100  # yellow
    assert (drawn([0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0]) == pixels).all()


def test_below_zero_is_blue():
    pixels = drawn([-0.1, -0.1, -0.1, 0.1, 0.1, 0.1])
    below, above = cell(pixels, 0, 1), cell(pixels, 0, 4)
    assert below[2] > below[0]
    assert above[0] > above[2]


def test_a_map_of_next_to_nothing_is_next_to_clear():
    assert drawn([heat.FAINTEST / 100, 0.0], [0.0, 0.0])[..., 3].max() < 5


@pytest.mark.parametrize("stops", [heat.ABOVE, heat.BELOW])
def test_the_colours_are_ordered_by_lightness_alone(stops):
    """Who tells no red from green, or no blue from yellow, sees the order."""
    lights = [light(np.array(stop.colour)) for stop in stops]
    assert lights == sorted(lights)
    assert [stop.opacity for stop in stops] == sorted(stop.opacity for stop in stops)
