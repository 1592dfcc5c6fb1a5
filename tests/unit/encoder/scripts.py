"""Small TorchScript programs, good and bad: a name goes in, the bytes that torch.jit.save would write come out."""

import io
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

DIM = 16


class Crops(nn.Module):
    """(N, C, size, size) -> (N, DIM), from drawn weights."""

    def __init__(self, channels: int = 1, dim: int = DIM) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = nn.Conv2d(channels, 8, 5, stride=4)
        self.say = nn.Linear(8 * 16, dim)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = functional.adaptive_avg_pool2d(self.see(pictures).relu(), 4).flatten(1)
        return functional.normalize(self.say(seen), dim=1)


class Frame(nn.Module):
    """(1, 1, size, size) and boxes (N, 4) -> (N, DIM): means of drawn features inside each box."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = nn.Conv2d(1, DIM, 5, padding=2)

    def forward(self, frame: Tensor, boxes: Tensor) -> Tensor:
        seen = self.see(frame)[0]
        at = torch.arange(frame.shape[-1], device=frame.device)
        across = (at >= boxes[:, 0:1]) & (at < boxes[:, 2:3])
        down = (at >= boxes[:, 1:2]) & (at < boxes[:, 3:4])
        mask = (down[:, :, None] & across[:, None, :]).to(seen.dtype)
        return functional.normalize(torch.einsum("nhw,chw->nc", mask, seen), dim=1)


class Pixels(nn.Module):
    """The picture itself as its vector."""

    def forward(self, pictures: Tensor) -> Tensor:
        return functional.normalize(pictures.flatten(1) + 1e-6, dim=1)


class Corner(nn.Module):
    """(N, 1, size, size) -> (N, 4): how fine grained the lower right quarter is, and next to nothing of the others.

    What it attends to is known: of what a covered film loses, 99 parts of 100 are of one corner.
    """

    def forward(self, pictures: Tensor) -> Tensor:
        grain = (pictures - functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)).abs()
        quarters = functional.adaptive_avg_pool2d(grain, 2).flatten(1)  # (N, 4) in row order
        weights = torch.tensor([0.01, 0.01, 0.01, 1.0])
        return functional.normalize(quarters * weights + torch.tensor([0.05, 0.0, 0.0, 0.0]), dim=1)


class Long(Crops):
    def forward(self, pictures: Tensor) -> Tensor:
        seen = functional.adaptive_avg_pool2d(self.see(pictures).relu(), 4).flatten(1)
        return self.say(seen) + 2.0


class NotNumbers(Crops):
    def forward(self, pictures: Tensor) -> Tensor:
        seen = functional.adaptive_avg_pool2d(self.see(pictures).relu(), 4).flatten(1)
        return self.say(seen) / 0.0


class Dice(Crops):
    def forward(self, pictures: Tensor) -> Tensor:
        seen = functional.adaptive_avg_pool2d(self.see(pictures).relu(), 4).flatten(1)
        return functional.normalize(self.say(seen) + torch.rand(1), dim=1)


class Crowd(Crops):
    def forward(self, pictures: Tensor) -> Tensor:
        seen = functional.adaptive_avg_pool2d(self.see(pictures).relu(), 4).flatten(1)
        return functional.normalize(self.say(seen - 0.9 * seen.mean(0)) + 0.1, dim=1)


class Blind(Crops):
    def forward(self, pictures: Tensor) -> Tensor:
        return functional.normalize(torch.ones(pictures.shape[0], 16) + 0.0 * pictures.mean(), dim=1)


class PlaceOnly(Frame):
    def forward(self, frame: Tensor, boxes: Tensor) -> Tensor:
        return functional.normalize(boxes.repeat(1, 4) + 1.0, dim=1)


class WholeFilm(Frame):
    def forward(self, frame: Tensor, boxes: Tensor) -> Tensor:
        return functional.normalize(self.see(frame).mean((2, 3)), dim=1).repeat(boxes.shape[0], 1)


class Fails(Crops):
    def forward(self, pictures: Tensor) -> Tensor:
        return self.say(pictures.flatten(1))


class OneForAll(Crops):
    def forward(self, pictures: Tensor) -> Tensor:
        return functional.normalize(self.say(pictures.new_ones(1, 128)), dim=1)


class Two(Crops):
    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return pictures, pictures


def saved(module: nn.Module) -> bytes:
    """The module as a TorchScript program."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module.eval()), data)  # type: ignore[no-untyped-call]
    return data.getvalue()
