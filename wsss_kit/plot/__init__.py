"""Figures: images, maps over images, masks side by side, IoU as bars, curves.

Every function returns a matplotlib ``Figure`` with alt text; end a notebook cell with it, or
write it with ``save_figure``. Matplotlib is loaded on first use. Maps are viridis, bars cividis
with hatches, masks outlined: no figure speaks through colour alone.
"""

from wsss_kit.plot.canvas import alt_text, class_colours, new_figure, save_figure
from wsss_kit.plot.charts import (
    show_confusion,
    show_curves,
    show_heat_maps,
    show_plane,
    show_search,
    show_spills,
    show_word_classes,
)
from wsss_kit.plot.figures import show_cams, show_clusters, show_errors, show_masks, show_samples
from wsss_kit.plot.regions import frame_cell, overlay
from wsss_kit.plot.reports import iou_bars, show_difference, step_bars
