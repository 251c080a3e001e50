# %% [markdown]
# # 06 Affinity and random walk
#
# A map is bright where the network is most certain, and dark on the rest of the object. If we knew **which cells belong together**, we could spread the map from the bright cells to the others and stop at the object's edge. SC-CAM and CLIMS use this step in their papers (Zhou's CAM paper has no such step). It comes from PSA (Ahn and Kwak, CVPR 2018): its *AffinityNet* learns from the maps themselves which cells belong together, and a *random walk* with this affinity spreads the maps.
#
# ```text
# images (B,3,H,W) ─┐
#                   ├─► features ─► CAMs ─► refinement ─► pseudo masks ─► segmenter ─► IoU, errors
# labels (B,C)     ─┘                           │
#                                         you are here
# ```
#
# **Goals.** You can (1) say where the labels come from that an affinity learns from, and why half-sure pixels are left out, (2) rebuild one step of the walk, (3) say what its two numbers do and what too many steps do, (4) compare a learned affinity with the attention of notebook 05.
#
# **Needs.** No network, no GPU, no other notebook; it helps to know 02, 05 and 07. **Time.** Two minutes of computing on two cores, GPU not measured; 60 minutes of reading. **Words.** [glossary.md](glossary.md)
#
# <details><summary><b>Plan for the teacher, 75 minutes</b></summary>
#
# | Minutes | What | How |
# | --- | --- | --- |
# | 0 to 15 | Confident labels | show the two CRF masks; let the students draw what both agree on |
# | 15 to 30 | Pairs and the loss | which of these three pairs are used? Why does each kind have its own mean? |
# | 30 to 45 | Which cells are alike? | predict both images before you show them |
# | 45 to 60 | Steps | vote: when does the map stop getting better? Then the curve |
# | 60 to 75 | Table, exercise 1 | which step is worth its cost? |
#
# </details>

# %%
from functools import partial

import pandas as pd
import torch

from wsss_kit import cam_maps, crf_of_present, sweep_background
from wsss_kit.affinity import BalancedWalk
from wsss_kit.affinity_net import (
    PAIR_KINDS,
    confident_seeds,
    feature_affinity,
    half_plane,
    labels_on_grid,
    pair_kinds,
)
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.evaluation import CONSTANTS, CRF_RULES, ERROR_KINDS
from wsss_kit.masks import add_background, scores_to_masks
from wsss_kit.notebook_data import make_clip_es, open_data, train_affinity_net, train_cam
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import frame_cell, show_cams, show_curves, show_masks, step_bars

# %%
DATA = "paper"  # or "voc", "folder"

# %%
data = open_data(DATA, n_train=400, n_val=40, n_test=80)
cam = train_cam(data)
maps_of = partial(cam_maps, method=cam)

# %% [markdown]
# ## What to learn from
#
# There are no labels that say which cells belong together. But a dense CRF (notebook 07) turns the maps into fair masks, and we can run it twice. With a **strong** background only confident objects remain. With a **weak** background only confident background remains. Where the two masks disagree, the pixel is *neutral*: it gets the value 255 and is ignored in training.
#
# The background score is $(1 - \max_c M_c)^\alpha$: a low power is a strong background. PSA uses 4 and 32 for VOC; for PaperWorld, 2 and 8 were best on `val`.

# %%
powers = (2, 8) if DATA == "paper" else (4, 32)
learned = data.train[:150]
seeds = confident_seeds(maps_of, learned, powers=powers, refine=crf_of_present)

some = list(learned[:3])
passes = {}
for title, power in zip(("sure of objects", "sure of background"), powers, strict=True):
    passes[title] = []
    for s in some:
        scores = add_background(maps_of(s.image[None], s.labels[None]), power=power)
        scores = crf_of_present(scores, s.image[None], s.labels[None])
        passes[title].append(scores_to_masks(scores, s.labels[None])[0])
show_masks(some, {**passes, "what is learned from": seeds}, data.classes)

# %%
values = torch.cat([seed.flatten() for seed in seeds.values()])
print(f"neutral: {100 * (values == 255).float().mean():.0f} % of all pixels")
print(f"object: {100 * ((values > 0) & (values < 255)).float().mean():.0f} %")

# %% [markdown]
# ## Pairs
#
# The network does not learn classes. It learns from **pairs** of cells that are less than five cells apart. A pair is *alike* if both cells are background or both are of one class, and *different* otherwise. A pair with a neutral cell is not used.
#
# Background pairs are many and easy; pairs across a border are few but important. So each kind of pair has its own mean in the loss: $\tfrac14 L_{bg} + \tfrac14 L_{fg} + \tfrac12 L_{-}$.

# %%
offsets = half_plane(5)
grid = cam(some[0].image[None], some[0].labels[None]).cams.shape[2:]
cells = labels_on_grid(seeds[some[0].name][None], tuple(grid), len(data.classes))
kinds = pair_kinds(cells, offsets)
print(f"{len(offsets)} neighbours on one side of a cell; pairs in {some[0].name}:")
pd.Series({kind: int((kinds == k).sum()) for k, kind in enumerate(PAIR_KINDS)}, name="pairs")

# %% [markdown]
# The affinity of two cells says how similar their features are: $a_{ij} = \exp(-\tfrac1D\sum_d |f_{id} - f_{jd}|)$. The features come from a backbone and one more 1x1 convolution. Both are trained.

# %%
net = train_affinity_net(data, learned, seeds)
print("loss of every epoch:", [round(loss, 3) for loss in net.losses_])

# %% [markdown]
# ## Which cells are alike?
#
# We compare two affinities of the same cells: the learned one, and the attention of a CLIP (notebook 05), which nobody trained for this. Each row shows the affinity of one cell, the one in the red frame, to all others.
#
# **Predict first:** which of the two will stop at the edge of the object?

# %% tags=["predict"]
clip_es = make_clip_es(data)
sample = next(s for s in data.test if s.labels.sum() == 2)
images, labels = sample.image[None], sample.labels[None]
learned_affinity = net(images)[0]  # (N, N)
attention = clip_es(images, labels).affinity[0]
h, w = net.between(images).shape[2:]
clip_h, clip_w = clip_es(images, labels).cams.shape[2:]

rows = []
H, W = sample.image.shape[1:]
for y, x in ((0.5, 0.5), (0.3, 0.7), (0.85, 0.2)):
    place, clip_place = int(y * h) * w + int(x * w), int(y * clip_h) * clip_w + int(x * clip_w)
    both = [
        learned_affinity[place].view(1, 1, h, w),
        attention[clip_place].view(1, 1, clip_h, clip_w),
    ]
    both = [upsample(m / m.max(), (H, W))[0, 0] for m in both]
    framed = frame_cell(sample.image, place, (h, w))
    rows.append((sample._replace(name="about the framed cell", image=framed), torch.stack(both)))
show_cams(
    [s for s, _ in rows], [m for _, m in rows], ["learned affinity", "attention"], torch.ones(3, 2)
)

# %% [markdown]
# Neither stops at the edge of the object alone: the learned affinity also spreads over near cells of another thing, and attention jumps to similar cells far away, such as the head of another animal. The learned affinity is local by construction: it covers the cells within a circle of five cells. Attention covers all cells. Which of the two makes better masks has to be measured.
#
# ## The walk
#
# In one step, each cell's new value is the weighted mean of its own value and its neighbours' values. The weights are the affinities to some power $\beta$, divided by their sum. This is repeated: $T = D^{-1} A^{\circ\beta}$, $M' = T^t M$. The power makes low affinities lower, so that less passes over an edge: $0.9^8 = 0.43$, but $0.5^8 = 0.004$.

# %%
# by hand
power, steps = 4, 8
maps = cam(images, labels).cams  # (1, C, h, w)
A = learned_affinity**power
T = A / A.sum(1, keepdim=True)  # rows sum to 1: whom I listen to
M = upsample(maps, (h, w))[0].flatten(1).T  # (N, C)
for _ in range(steps):
    M = T @ M
by_hand = upsample(M.T.view(1, -1, h, w), images.shape[2:])

pipeline = Pipeline(cam, affinity=net, walk_power=power, squarings=3)
assert torch.allclose(by_hand, pipeline.walk(maps, images), atol=1e-4)

# %%
c = int(labels[0].nonzero()[0])
panels = {}
for squarings in (None, 0, 2, 4, 6, 8, 12):
    m = upsample(maps, (h, w))
    if squarings is not None:
        m = net.walk(maps, images, power=4, squarings=squarings)
    m = upsample(normalize_cams(m), images.shape[2:])
    steps = (
        "no step" if squarings is None else "1 step" if squarings == 0 else f"{2**squarings} steps"
    )
    panels[steps] = m[0, c]
show_cams(
    [sample._replace(name=data.classes[c])],
    [torch.stack(list(panels.values()))],
    list(panels),
    torch.ones(1, len(panels)),
)

# %% [markdown]
# The map fills the object first, because affinities are high inside it. A little also passes over every edge. After very many steps all cells have the same value, and nothing is left of the map. How many steps are best? We choose on `val`, and choose the power at the same time: with a higher power, more steps are possible.
#
# **Predict first**, then run the cell.


# %% tags=["predict"]
def walk_maps(images, labels, *, power, squarings):
    """Maps after the walk at the size of the image, each scaled to [0, 1]."""
    pipeline = Pipeline(cam, affinity=net, walk_power=power, squarings=squarings)
    return normalize_cams(pipeline.walk(cam(images, labels).cams, images))


curves = {}
for power in (1, 4, 8):
    for squarings in (0, 2, 4, 6, 8, 10):
        swept = sweep_background(
            partial(walk_maps, power=power, squarings=squarings),
            data.val,
            data.val_masks,
            rules=CONSTANTS,
            shown=False,
        )
        curves.setdefault(f"power {power}", {})[squarings] = 100 * max(swept.values())
show_curves({"log2 of the steps": curves}, y="mIoU on val, percent")

# %% [markdown]
# With a power of 1 the affinity hardly stops at edges: one step is best, and more steps lower the mIoU. With powers 4 and 8 the mIoU first rises. PSA uses a power of 8 and $2^8 = 256$ steps, on grids of 60 by 60 cells; on 12 by 12 cells so many steps cross the whole image many times.
#
# ## The table
#
# Plain CAM's maps, after a walk with the learned affinity and after one with attention. Each has the background rule that was chosen for it on `val`. Without and with the CRF, on `test`.

# %%
found = {(p, s): score for p in (4, 8) for s, score in curves[f"power {p}"].items()}
power, squarings = max(found, key=found.get)
print(f"chosen on val: power {power}, 2^{squarings} steps")


def attention_maps(images, labels):
    """CAM's maps after CLIP-ES's walk with attention, without its boxes."""
    affinity = clip_es(images, labels).affinity  # (B, N, N)
    on_grid = upsample(cam(images, labels).cams, (clip_h, clip_w))
    walk = BalancedWalk(affinity)(on_grid, squarings=clip_es.walk_squarings)
    return normalize_cams(upsample(walk, images.shape[2:]))


# %%
ladder = {
    "maps": maps_of,
    "attention": attention_maps,
    "learned affinity": partial(walk_maps, power=power, squarings=squarings),
}
if DATA != "paper":
    del ladder["attention"]  # its grid changes with the image
reports, masks = {}, {}
for how, rules, refine in (
    ("without CRF", CONSTANTS, None),
    ("with CRF", CRF_RULES, crf_of_present),
):
    for step, of in ladder.items():
        options = {"rules": rules, "refine": refine, "shown": False}
        stated = {"refinement": f"{step}, {how}", "preset": cam.preset}
        chosen, report = data.score(of, **stated, **options)  # rule from val, masks of test
        masks[step, how] = chosen.masks
        reports.setdefault(how, {})[step] = report
step_bars(reports)

# %%
table = pd.DataFrame(
    {how: {step: 100 * r.mean_iou for step, r in row.items()} for how, row in reports.items()}
)
for how, row in reports.items():
    print(f"{how}: {row['learned affinity'].headline}")
print(reports["with CRF"]["learned affinity"].protocol)
table.round(1)

# %% [markdown]
# The kinds of error after each step, mean over the classes, in points of their union:

# %%
kinds = {
    (how, step): 100 * report.error_shares[1:].mean(0)
    for how, row in reports.items()
    for step, report in row.items()
}
pd.DataFrame(kinds, index=ERROR_KINDS).T.round(1)

# %%
show_masks(
    list(data.test[:3]),
    {
        "maps": masks["maps", "without CRF"],
        "walked": masks["learned affinity", "without CRF"],
        "walked, CRF": masks["learned affinity", "with CRF"],
        "ground truth": data.test_masks,
    },
    data.classes,
)

# %% [markdown] sums="48.6 - 42.0 = 6.6; 44.5 - 42.0 = 2.5"
# Three results.
#
# - **Without the CRF, the walk gains 6.6 points with the learned affinity (42.0 to 48.6) and 2.5 with attention.** The learned affinity was trained to say, for each pair, whether two cells belong together; attention was not.
# - **With the CRF, the walk lowers the mIoU here, from 64.6 to 60.1**, and the table of error kinds says why. The walk removes a sixth of what the maps *spilled* (31.6 to 26.6 points). The CRF alone removes two thirds of it (to 10.7), but after the walk only to 20.6: where the walk has spread a map over an object's background, the scores there are high, and the CRF keeps them. The network learned from masks that the CRF had made, so it has learned the CRF's edges, on a coarser grid.
# - **State the steps with the number.** If maps before a walk are compared with maps after a CRF, one step gets the credit for the other's gain.

# %% [markdown] tags=["larger"]
# **A larger run, with other methods** (300 images to learn from; 200 of `test`; rules, power and steps from 100 of `val`; two seeds of everything that is trained). mIoU in percent, first and second seed:
#
# | maps of | maps | walk, attention | walk, learned affinity | CRF | walk and CRF |
# | --- | --- | --- | --- | --- | --- |
# | CAM | 41.8, 41.9 | 43.7, 43.8 | 49.9, 50.1 | 61.6, 62.1 | 61.6, 61.2 |
# | SC-CAM | 54.6, 54.6 | 56.0, 56.2 | 63.0, 62.4 | 81.2, 81.1 | 80.4, 79.0 |
# | CLIMS | 64.9, 64.3 | 61.2, 60.6 | 68.8, 68.0 | 84.3, 82.9 | 84.2, 83.0 |
#
# Attention gains less than half of what the learned affinity gains, and it makes CLIMS' maps worse.
#
# **On photographs the two gains add up.** 437 images of VOC's `train` to learn from (maps of a frozen MobileNetV2, PSA's powers 4 and 32, three levels of the same backbone at stride 8); power 16 and $2^6$ steps chosen on 55 of them; 149 images of `val`, background and six classes scored:
#
# | maps | walk | CRF | walk and CRF |
# | --- | --- | --- | --- |
# | 47.4 | 54.0 | 52.4 | 59.3 |
#
# On the same images, the walk gains 6.9 points [4.8, 8.9] after the CRF. A likely reason: in a photograph an object has many colours and the CRF stops at each of them, while an affinity that has learned from other images may know that they belong together. A paper cut-out has few colours.

# %% [markdown]
# ## Exercises
#
# A check that ends in a red `NotImplementedError` waits for its exercise; this is intended. Write the function, run its cell and then the check.
#
# **Exercise 1. The affinity of two cells.** Compute it for one pair, from the features of the network.


# %%
def affinity_by_hand(features, i, j):
    """(D, h, w) and two places (y, x) -> the affinity of the two cells, a number in (0, 1]."""
    raise NotImplementedError("the exponential of minus a mean of absolute differences")


# %% tags=["solution"]
def affinity_by_hand(features, i, j):
    """(D, h, w) and two places (y, x) -> the affinity of the two cells, a number in (0, 1]."""
    return torch.exp(-(features[:, i[0], i[1]] - features[:, j[0], j[1]]).abs().mean())


# %% tags=["check"]
with torch.no_grad():
    features = net.features(images)[0]  # (D, h, w)
assert torch.allclose(
    affinity_by_hand(features, (3, 3), (4, 5)), learned_affinity[3 * w + 3, 4 * w + 5]
)
assert torch.allclose(
    feature_affinity(features[None], [(1, 2)])[0, 0, 3, 3], learned_affinity[3 * w + 3, 4 * w + 5]
)
print("passed")

# %% [markdown]
# **Exercise 2. Where a walk ends.** If all cells of an image are connected, they all have the same value after very many steps. Which value? It is not the mean of the map: a cell with high affinities to many others counts more. Compute the limit from the affinity and the map, without walking.


# %%
def limit(affinity, values):
    """(N, N) symmetric and (N,) -> the number that every cell ends with."""
    raise NotImplementedError("a mean that weighs each cell by the sum of its affinities")


# %% tags=["solution"]
def limit(affinity, values):
    """(N, N) symmetric and (N,) -> the number that every cell ends with."""
    ties = affinity.sum(1)
    return (ties * values).sum() / ties.sum()


# %% tags=["check"]
some = torch.rand(20, 20)
some, start = some + some.T, torch.rand(20)
T = some / some.sum(1, keepdim=True)
assert torch.allclose(torch.linalg.matrix_power(T, 500) @ start, limit(some, start), atol=1e-4)
print("passed")

# %% [markdown]
# ## Recap
#
# - An affinity learns from the confident pixels of the maps, where two CRF masks agree. No mask is drawn by hand.
# - It learns pairs, not classes; each kind of pair has its own mean in the loss.
# - The walk is a repeated weighted mean of neighbours. The power stops it at edges, the number of steps sets how far it goes, and both are chosen on `val`.
# - After too many steps all cells have the same value.
# - The recipes `cam_masks`, `sc_cam_masks` and `clims_masks` take an `affinity_net`. In PSA and SC-CAM (`cam_masks`, `sc_cam_masks`) the background walks with the maps; in CLIMS it is added after the walk.
#
# ## What to open next
#
# | If you ask | open |
# | --- | --- |
# | what does the CRF do that the walk does not? | `07_background_and_crf` |
# | how does attention become an affinity? | `05_clip_es_softmax_grad_cam` |
# | how do sub-categories make a map larger, before any walk? | `03_sc_cam_subcategories` |
# | is a gain of two points a real one? | `09_iou_analysis` |
#
# **Further reading.** J. Ahn and S. Kwak, *Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic Segmentation*, CVPR 2018 (PSA). J. Ahn, S. Cho and S. Kwak, *Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations*, CVPR 2019 (IRN), whose boundary between two cells is `AffinityNet(kind="boundary")`.
