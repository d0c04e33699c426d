from __future__ import annotations

from itertools import combinations

from vit_edge.runtime.tools.compare.labels import Box, around, place_labels

FRAME = Box(40, 20, 400, 270)


def test_labels_cover_neither_each_other_nor_points() -> None:
    points = [(100.0, 100.0), (108.0, 104.0), (103.0, 95.0), (395.0, 30.0), (45.0, 268.0)]
    boxes = place_labels(points, ["int8", "fp16", "bf16", "fp32", "mixed"], FRAME)
    assert all(a.overlap(b) == 0 for a, b in combinations(boxes, 2))
    assert all(box.overlap(around(x, y, 5)) == 0 for box in boxes for x, y in points)
    for box in boxes:
        assert box.overlap(FRAME) == (box.right - box.left) * (box.bottom - box.top)


def test_a_free_label_stands_right_of_its_point() -> None:
    (box,) = place_labels([(100.0, 100.0)], ["fp32"], FRAME)
    assert 105 < box.left < 112
    assert box.top < 100 < box.bottom


def test_obstacles_are_kept_free() -> None:
    whisker = Box(60, 97, 180, 103)
    (box,) = place_labels([(100.0, 100.0)], ["fp32"], FRAME, [whisker])
    assert box.overlap(whisker) == 0
