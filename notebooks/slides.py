"""Make the slides of the lecture: one HTML file, no network, from the table in ``teaching.md``.

A row of the table becomes two slides: its figure, from the notebook that it names, with the
question, and then the same with the answer. Arrow keys, space and Home move; a browser prints one
slide on each page.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import nbformat
from nbconvert.filters import markdown2html

from build import BuildError

ROW = re.compile(r"\| (\d+ to \d+) \| ([^|]*) \| (\d\d), ([^|]*?) \| \*([^|]*?)\* ([^|]*) \|")
PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
html { scroll-snap-type: y mandatory; font: 3.2vmin/1.4 sans-serif }
body { margin: 0; color: #1b1b1b; background: #fff }
section { box-sizing: border-box; height: 100vh; padding: 5vmin 6vmin; scroll-snap-align: start;
  display: flex; flex-direction: column; gap: 2vh; break-after: page }
h1, h2 { margin: 0; line-height: 1.15 } h1 { font-size: 8vmin } h2 { font-size: 5vmin }
img { min-height: 0; flex: 1 1 0; object-fit: contain; object-position: left; max-width: 100% }
p { margin: 0 } small { margin-top: auto; font-size: 2vmin; color: #555 } code { font-size: .9em }
</style></head><body>
<section><h1>{{ title }}</h1><p>{{ about }}</p>
<small>{{ slides | length }} questions</small></section>
{% for slide in slides %}{% for part in ("", slide.answer) %}
<section><h2>{{ slide.what }}</h2>
<img alt="{{ slide.alt | e }}" src="data:image/{{ slide.kind }};base64,{{ slide.image }}">
{{ slide.question }}{{ part }}
<small>{{ slide.minutes }} min · notebook {{ slide.place }}</small></section>
{% endfor %}{% endfor %}
<script>
addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1,
    PageUp: -1, Home: -1e9, End: 1e9 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...document.querySelectorAll("section")];
  const now = Math.round(scrollY / innerHeight);
  all[Math.min(all.length - 1, Math.max(0, now + step))].scrollIntoView();
});
</script></body></html>
"""
)


def lecture(folder: Path) -> str:
    """Write the page of the lecture.

    Args:
        folder: of ``teaching.md`` and the executed notebooks.

    Returns:
        HTML with all figures inside.

    Raises:
        BuildError: if the table names a heading that is not there or has no figure.
    """
    text = (folder / "teaching.md").read_text(encoding="utf-8")
    part = text.partition("## The lecture")[2].partition("\n## ")[0]
    slides = []
    for minutes, what, number, heading, question, answer in ROW.findall(part):
        (path,) = folder.glob(f"{number}_*.ipynb")
        slide = {"minutes": minutes, "what": what, "place": f"{number}, {heading}"}
        slide |= {"question": markdown2html(f"**{question}**"), "answer": markdown2html(answer)}
        slides.append(slide | first_figure(path, heading))
    if not slides:
        raise BuildError(f"{folder / 'teaching.md'} has no table below 'The lecture'")
    about = "Weakly supervised semantic segmentation: from labels of images to outlines of objects."
    return PAGE.render(title="Labels to outlines", about=about, slides=slides)


def first_figure(path: Path, heading: str) -> dict[str, str]:
    """Find the first figure below a heading: the image in base64, its kind, and its alt text."""
    inside = False
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            inside = inside or bool(re.search(rf"^#+ {re.escape(heading)}$", cell.source, re.M))
        for output in cell.get("outputs", ()) if inside else ():
            for kind in ("png", "jpeg"):
                if image := output.get("data", {}).get(f"image/{kind}"):
                    alt = output.data.get("text/plain", heading)
                    return {"image": image.strip(), "kind": kind, "alt": alt}
    raise BuildError(f"{path.name} has no figure below {heading!r}, which teaching.md names")
