"""Predictions and targets in, one number out: what each part of training pulls at."""

import torch
import torch.nn.functional as F
from torch import Tensor


def iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """(..., 4) and (..., 4) -> (...) in 0..1."""
    low, high = torch.maximum(boxes[..., :2], truth[..., :2]), torch.minimum(boxes[..., 2:], truth[..., 2:])
    shared = (high - low).clamp_min(0.0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0.0).prod(-1) + (truth[..., 2:] - truth[..., :2]).prod(-1)
    return shared / (areas - shared).clamp_min(1e-9)


def generalised_iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """(..., 4) and (..., 4) -> (...) in -1..1 (Rezatofighi et al., arXiv 1902.09630): falls on even without overlap."""
    low, high = torch.maximum(boxes[..., :2], truth[..., :2]), torch.minimum(boxes[..., 2:], truth[..., 2:])
    shared = (high - low).clamp_min(0.0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0.0).prod(-1)
    union = area + (truth[..., 2:] - truth[..., :2]).prod(-1) - shared
    hull = torch.maximum(boxes[..., 2:], truth[..., 2:]) - torch.minimum(boxes[..., :2], truth[..., :2])
    around = hull.clamp_min(0.0).prod(-1)
    return shared / union.clamp_min(1e-9) - (around - union) / around.clamp_min(1e-9)


def box_loss(boxes: Tensor, truth: Tensor, placed: Tensor) -> Tensor:
    """(B, K, 4) twice and (B, K) bool: distance of the edges and lack of overlap, over the placed slots only."""
    found, wanted = boxes[placed], truth[placed]
    if not len(found):
        return boxes.sum() * 0.0
    edges = F.smooth_l1_loss(found, wanted, beta=0.01)
    return 10.0 * edges + (1.0 - generalised_iou(found, wanted)).mean()


def presence_loss(logits: Tensor, present: Tensor, judged: Tensor) -> Tensor:
    """Binary cross-entropy over the slots whose presence is known: unlabelled is not negative."""
    if not judged.any():
        return logits.sum() * 0.0
    return F.binary_cross_entropy_with_logits(logits[judged], present[judged])


def certainty_loss(logits: Tensor, boxes: Tensor, truth: Tensor, placed: Tensor) -> Tensor:
    """Binary cross-entropy against the IoU that each placed box has reached (IoU-aware scores, arXiv 1912.05992)."""
    if not placed.any():
        return logits.sum() * 0.0
    return F.binary_cross_entropy_with_logits(logits[placed], iou(boxes[placed], truth[placed]).detach())


def region_contrastive(vectors: Tensor, anatomy: Tensor, temperature: float) -> Tensor:
    """(N, D) unit vectors and (N,) indices: those of the same index are the positive pairs.

    With anatomies as indices that is the same anatomy in other films; with a number for each region of each film, only
    another view of the very same region: SimCLR (Chen et al., arXiv 2002.05709), which needs no label.
    Supervised contrastive loss, outer sum (Khosla et al., arXiv 2004.11362, eq. 2) on regions (arXiv 2305.05598).
    """
    similarity = vectors @ vectors.T / temperature
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    likelihood = F.log_softmax(similarity.masked_fill(own, -1e9), dim=-1)
    positive = (anatomy[:, None] == anatomy[None, :]) & ~own
    count = positive.sum(-1)
    mean = (likelihood * positive).sum(-1) / count.clamp_min(1)
    return -mean[count > 0].mean() if bool((count > 0).any()) else vectors.sum() * 0.0


def finding_contrastive(vectors: Tensor, anatomy: Tensor, shown: Tensor, temperature: float) -> Tensor:
    """(N, D), (N,) and (N, F) of 0 or 1: within an anatomy, as near as the findings that two regions share.

    The target of a pair is the Jaccard index of their findings, 1 where neither shows any; soft targets of a softmax
    over the other regions of the anatomy.
    """
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    rivals = (anatomy[:, None] == anatomy[None, :]) & ~own
    common = shown @ shown.T
    union = shown.sum(-1)[:, None] + shown.sum(-1)[None, :] - common
    alike = torch.where(union > 0, common / union.clamp_min(1.0), torch.ones_like(union)) * rivals
    asked = (alike > 0).any(-1) & (rivals & (alike < 1)).any(-1)  # something to be near to, and something not
    if not bool(asked.any()):
        return vectors.sum() * 0.0
    similarity = (vectors @ vectors.T / temperature)[asked]
    likelihood = F.log_softmax(similarity.masked_fill(~rivals[asked], -1e9), dim=-1)
    return -((likelihood * alike[asked]).sum(-1) / alike[asked].sum(-1)).mean()


def same_region(vectors: Tensor, anatomy: Tensor, film: Tensor, temperature: float) -> Tensor:
    """(N, D), (N,) and (N,): among one anatomy, two views of the same film are nearer than two films.

    InfoNCE (van den Oord et al., arXiv 1807.03748) inside each anatomy. Without it all vectors of an anatomy fall on
    one point, where "which of them looks most alike" has no answer and half precision cannot tell them apart.
    """
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    rivals = (anatomy[:, None] == anatomy[None, :]) & ~own
    positive = rivals & (film[:, None] == film[None, :])
    asked = positive.any(-1) & (rivals & ~positive).any(-1)
    if not bool(asked.any()):
        return vectors.sum() * 0.0
    similarity = (vectors @ vectors.T / temperature)[asked]
    likelihood = F.log_softmax(similarity.masked_fill(~rivals[asked], -1e9), dim=-1)
    return -((likelihood * positive[asked]).sum(-1) / positive[asked].sum(-1)).mean()


def prototype_loss(vectors: Tensor, prototypes: Tensor, anatomy: Tensor, temperature: float) -> Tensor:
    """Cross-entropy over cosine similarity to one prototype an anatomy: (N, D), (C, D), (N,)."""
    return F.cross_entropy(vectors @ F.normalize(prototypes, dim=-1).T / temperature, anatomy)
