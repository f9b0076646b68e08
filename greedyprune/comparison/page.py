"""One HTML page of a comparison that opens offline: table, plots and pictures are all in it."""

import base64
from collections.abc import Callable, Sequence
from html import escape
from io import BytesIO

from PIL import Image

from greedyprune.comparison.plots import axes_of, draw, picture
from greedyprune.comparison.row import DENSE, Row
from greedyprune.comparison.table import Column, class_columns, columns
from greedyprune.data.coco import CocoDetection
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.draw import draw_detections

QUALITY = 85  # of JPEG
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: 0.25em 0.7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: white; }
th { font-weight: 600; border-bottom: 2px solid #888; }
tr.dense { background: #f4f4f4; } tr.dense td:first-child { background: #f4f4f4; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1em; }
.plots svg { width: 100%; height: auto; }
.pair { display: inline-block; margin: 0 1em 1em 0; } .pair img { width: 270px; height: auto; }
summary { cursor: pointer; font-weight: 600; padding: 0.3em 0; } .note { color: #666; }
"""


def page(
    rows: Sequence[Row],
    title: str,
    about: str,
    dataset: CocoDetection,
    pictured: Sequence[int],
    found: Callable[[str], Detections],
) -> str:
    """The page.

    Args:
        rows: of the comparison, the dense detector among them.
        title: heads it.
        about: a line on what was measured on what.
        dataset: where the pictured images are.
        pictured: their ids.
        found: from a row's name to what its detector finds in them.
    """
    images = {image: dataset.pixels(image) for image in pictured}
    names = {int(key): each["name"] for key, each in dataset.coco.cats.items()}

    def drawn(image: int, detections: Detections) -> str:
        own = detections[detections.image_ids == image]
        return _jpeg(draw_detections(images[image], own, names))

    dense = found(DENSE)
    before = {image: drawn(image, dense) for image in pictured}
    parts = [
        f"<h1>{escape(title)}</h1><p class=note>{escape(about)}</p>",
        f"<h2>What was measured</h2>{_table(rows, columns(rows))}",
        '<h2>AP against what it costs</h2><div class="plots">',
        *(_svg(picture(draw(rows, axis), "svg")) for axis in axes_of(rows)),
        f"</div><h2>AP of every class</h2>{_table(rows, class_columns(rows))}",
        "<h2>Detections</h2><p class=note>Left of each pair the dense detector, right the pruned one in the end.</p>",
    ]
    for row in rows:
        if row.name != DENSE:
            own = found(row.name)
            pairs = "".join(
                f'<span class="pair"><img src="{before[image]}" alt="dense, image {image}"> '
                f'<img src="{drawn(image, own)}" alt="{escape(row.name)}, image {image}"></span>'
                for image in pictured
            )
            parts.append(f"<details><summary>{escape(row.name)}</summary>{pairs}</details>")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(rows: Sequence[Row], told: Sequence[Column]) -> str:
    head = "".join(f"<th>{escape(column.name)}</th>" for column in told)
    lines = []
    for row in rows:
        values = ((column, column.value(row)) for column in told)
        cells = "".join(f"<td>{'-' if v is None else escape(column.format(v))}</td>" for column, v in values)
        kind = ' class="dense"' if row.name == DENSE else ""
        lines.append(f"<tr{kind}><td>{escape(row.name)}</td>{cells}</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(lines)}</table></div>'


def _svg(content: bytes) -> str:
    """The drawing without the lines before its element, which no page holds in its middle."""
    text = content.decode()
    return f"<div>{text[text.index('<svg') :]}</div>"


def _jpeg(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
