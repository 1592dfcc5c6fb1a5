"""The numbers of a measurement in, tables for people out: the terminal and the report print the same ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | int | float | None
Summary = Mapping[str, Any]

NAMES = ("map", "p@1", "p@5", "p@10", "hit@5", "hit@10", "recall@5", "recall@10", "ap@10", "ndcg@10",
         "location_recall@5", "location_recall@10", "knn_accuracy")  # fmt: skip
COUNTS = ("gallery", "queries", "queries_without_positives", "missed_by_detector")
FACTS = ("generation", "model", "films", "images", "patients", "regions", "splits", "sources")


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names; `note` says what a reader should know."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def tables(summary: Summary) -> list[Table]:
    """Those whose numbers are there, in reading order."""
    return [table for make in MAKERS for table in make(summary) if table.rows or table.note]


def text(cell: Cell) -> str:
    """A cell as printed; a dash for what was not measured."""
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def spread(pair: Sequence[float] | None) -> str:
    """A 95 % interval as printed."""
    return f"{pair[0]:.3f} - {pair[1]:.3f}" if pair else "-"


def _facts(summary: Summary) -> Iterator[Table]:
    rows = [(name, _joined(summary[name])) for name in FACTS if name in summary]
    sample = summary.get("sample")
    if sample is not None:
        rows.append(("asked and answered for retrieval", f"{sample['regions']} regions, {sample['patients']} patients"))
    yield Table("measured", ("what", "value"), tuple(rows), str(summary.get("labels", "")))


def _joined(value: Any) -> Cell:
    return ", ".join(filter(None, value)) or None if isinstance(value, list) else value


def _detector(summary: Summary) -> Iterator[Table]:
    found = summary.get("detector", {})
    if "miou" not in found:
        yield Table("detector", (), (), str(found.get("note", "")))
        return
    sure, said = found["certainty"], found.get("presence", {})
    yield Table(
        "detector",
        ("measure", "detector", "95 %", "mean box"),
        (
            ("mIoU", found["miou"], spread(found["ci95"]), found["mean_box_miou"]),
            ("mIoU, contoured regions", found["contoured"]["miou"], "", found["contoured"]["mean_box_miou"]),
            ("share with IoU >= .5", found["over_50"], "", found["mean_box_over_50"]),
            ("AP50", found["ap50"], "", None),
            ("presence F1", said.get("f1"), "", None),
            ("said to be there, but cropped away", said.get("false_positive_rate"), "", None),
            ("left and right exchanged, boxes", found["laterality_swaps"], "", None),
            ("boxes with IoU < .5", sure["bad_boxes"], "", None),
            ("of these among the least certain tenth", sure["share_in_low_tenth"], "", None),
        ),
    )
    moved = found.get("moved")
    if moved:
        rows = tuple((kind, value, moved["regions"][kind]) for kind, value in moved["miou"].items())
        yield Table("detector on moved films", ("film", "mIoU", "regions"), rows, f"{moved['films']} films, seeded")


def _retrieval(summary: Summary) -> Iterator[Table]:
    for key, title in (("anatomy", "retrieval, anatomy"), ("truth", "retrieval, labels of stored SRs and SEGs")):
        found = summary.get("retrieval", {}).get(key)
        if found is None:
            continue
        counted = ", ".join(f"{name.replace('_', ' ')} {found[name]}" for name in COUNTS if name in found)
        if "map" not in found:
            yield Table(title, (), (), f"{found.get('note', '')} ({counted})")
            continue
        rows = [_measure(name, found) for name in NAMES]
        rows.append(("chance P@5", found["chance_p@5"], "", None, None))
        rows.append((f"worst P@5: {found['worst_region']}", found["worst_p@5"], "", None, None))
        sides = found["laterality_errors"]
        if sides["queries"]:
            rows.append(("first answer from the other side", sides["first"], "", None, None))
            rows.append(("of the first five, from the other side", sides["first_five"], "", None, None))
        yield Table(title, ("measure", "learned", "95 %", "raw pixels", "random"), tuple(rows), counted)


def _measure(name: str, found: Summary) -> tuple[Cell, ...]:
    shown = found.get("ci95" if name == "map" else f"{name}_ci95")
    trivial = (found.get(f"{kind}_{name}") for kind in ("raw_pixels", "random"))
    return ("mAP" if name == "map" else name.replace("_", " "), found[name], spread(shown) if shown else "", *trivial)


def _finding(summary: Summary) -> Iterator[Table]:
    found = summary.get("retrieval", {}).get("finding")
    if found is None:
        return
    columns = ("vector", "mAP", "95 %", "P@5", "95 %", "chance P@5")
    rows = tuple(
        (kind, of["map"], spread(of["ci95"]), of["p@5"], spread(of["p@5_ci95"]), of["chance_p@5"])
        for kind, of in found.get("by_vector", {}).items()
    )
    counted = ", ".join(f"{name.replace('_', ' ')} {found[name]}" for name in COUNTS if name in found)
    yield Table("retrieval, finding", columns, rows, str(found.get("note", counted)))


def _unlike(summary: Summary) -> Iterator[Table]:
    found = summary.get("unlike_archive")
    if found is None:
        return
    rows = [(kind, value, found["warned"][kind], found["rois"][kind]) for kind, value in found.get("auroc", {}).items()]
    if "false_alarms" in found:
        usual = f"usual regions, {spread(found['false_alarms_ci95'])}"
        rows.append((usual, None, found["false_alarms"], found["n"]))
    note = str(found.get("note", f"thresholds: {found.get('thresholds', '')}"))
    yield Table("unlike-archive warning", ("regions of", "AUROC", "warned", "regions"), tuple(rows), note)


def _local(summary: Summary) -> Iterator[Table]:
    found = summary.get("local")
    if found is None:
        return
    rows: list[tuple[Cell, ...]] = []
    note = str(found.get("note", ""))
    if control := found.get("control"):
        rows.append(
            (
                "made-up things: match on them",
                control["hit"],
                spread(control["ci95"]),
                None,
                control["chance"],
                control["n"],
            )
        )
        if "clear_hit" in control:
            rows.append(("of these, plain to see", control["clear_hit"], "", None, None, control["clear_n"]))
    if real := found.get("nodules"):
        measured = real["on_a_nodule@5"], spread(real["ci95"]), real["region_vectors_alone"], real["chance"]
        rows.append(("nodules: first 5 on one", *measured, real["queries"]))
        note = f"{real['films_with_nodule']} films with a nodule"
    columns = ("small ROIs", "local map", "95 %", "region vectors alone", "chance", "number")
    yield Table("small ROIs", columns, tuple(rows), note)


def _index(summary: Summary) -> Iterator[Table]:
    found = summary.get("ann_fidelity")
    if found is not None:
        rows = tuple((name.replace("_", " "), value) for name, value in found.items() if not isinstance(value, dict))
        yield Table("index beside an exact search", ("measure", "value"), rows)
    truth = summary.get("truth")
    if truth is not None:
        flat = [(name.replace("_", " "), value) for name, value in truth.items() if not isinstance(value, dict)]
        left = [(f"left out: {reason}", count) for reason, count in truth.get("skipped", {}).items()]
        yield Table("stored SRs and SEGs", ("what", "number"), (*flat, *left))


def _regions(summary: Summary) -> Iterator[Table]:
    boxes = summary.get("detector", {}).get("per_region", {})
    ranks = summary.get("retrieval", {}).get("anatomy", {}).get("per_region", {})
    rows = tuple(
        (
            name,
            *((box["iou"], spread(box["ci95"]), box["mean_box_iou"]) if (box := boxes.get(name)) else (None, "", None)),
            *((rank["map"], spread(rank["ci95"]), rank["p@5"]) if (rank := ranks.get(name)) else (None, "", None)),
            (ranks.get(name) or boxes[name])["n"],
        )
        for name in dict.fromkeys([*boxes, *ranks])
    )
    columns = ("region", "IoU", "95 %", "mean box", "mAP", "95 %", "P@5", "regions")
    yield Table("each region", columns, rows)


def _skipped(summary: Summary) -> Iterator[Table]:
    reasons = {**summary.get("skipped", {}), **summary.get("others_refused", {})}
    yield Table("left out", ("reason", "number"), tuple(reasons.items()))


MAKERS: tuple[Callable[[Summary], Iterator[Table]], ...] = (
    _facts,
    _detector,
    _retrieval,
    _finding,
    _unlike,
    _local,
    _index,
    _regions,
    _skipped,
)
