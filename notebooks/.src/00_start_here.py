# %% [markdown]
# # 00 Start here
#
# A segmentation network usually learns from masks: a person has given every pixel of every training image a class. **Weakly supervised** segmentation learns from less: from image-level labels. They say only *which* classes are in an image, not *where*. This notebook shows one image, two methods and one table of scores.
#
# ```text
# images (B,3,H,W) ─┐
#                   ├─► features ─► CAMs ─► refinement ─► pseudo masks ─► segmenter ─► IoU, errors
# labels (B,C)     ─┘
#        └─────────────── you are here: all of it once, quickly ───────────────────────────┘
# ```
#
# **Goals.** You can say (1) what goes in and what comes out, (2) how plain CAM and CLIP-ES differ, (3) which number turns a map into a mask and where it may be chosen.
#
# **Needs.** No network, no GPU, no other notebook. **Time.** Half a minute of computing on a laptop's CPU, GPU not measured; 30 minutes of reading and playing. **Words.** [glossary.md](glossary.md)
#
# <details><summary><b>Plan for the teacher, 45 minutes</b></summary>
#
# | Minutes | What | How |
# | --- | --- | --- |
# | 0 to 5 | Why weak labels | the explorer at stage `map`, then the sample images; who would draw the masks? |
# | 5 to 15 | Two methods, one image | run to the maps; let the students say which map belongs to which method |
# | 15 to 25 | The threshold | the explorer, in pairs: find the best threshold by eye, then compare it with the one chosen on `val` |
# | 25 to 32 | The table | in which classes do the methods differ? what does the protocol line say? |
# | 32 to 45 | Exercises 1 and 2 | alone, then compare |
#
# </details>

# %%
from functools import partial

import pandas as pd
import torch

from wsss_kit import best_rule, cam_maps, clip_es_maps, evaluate, predict_masks, sweep_background
from wsss_kit.notebook_data import make_clip_es, open_data, train_cam
from wsss_kit.plot import iou_bars, show_cams, show_masks, show_samples
from wsss_kit.widgets import CAMExplorer

# %%
DATA = "paper"  # or "voc", "folder"

# %% [markdown]
# `"paper"` is **PaperWorld**, a data set of cut-paper images that comes with the kit. The images are drawn from a seed, so nothing is downloaded. Their masks are exact for every pixel, so every claim can be checked. `"voc"` opens PASCAL VOC 2012 (`data/README.md` says how to get it) and `"folder"` your own images in `data/mine` (notebook 01 shows the layout). For these two, the weights of a ResNet-50 and of CLIP ViT-B/16 are downloaded once.
#
# **CLIP** (Radford et al., ICML 2021) is a pair of networks, an image encoder and a text encoder. It was trained on images with their captions. It gives an image and a text one vector each, and the two vectors are similar if the text describes the image. CLIP-ES, the second method below, uses it.

# %%
data = open_data(DATA, n_train=400, n_val=40, n_test=60)
cam = train_cam(data)  # plain CAM
clip_es = make_clip_es(data)  # CLIP-ES

explorer = CAMExplorer(
    {"CAM": cam, "CLIP-ES": clip_es}, data.test[:8], data.test_masks, data.classes
)
explorer

# %% [markdown]
# This panel shows the whole chain at once; the notebook then explains each step. Choose an image, a method and a **stage**: the *map* of a class, the *refined* map, the *scores* of the class after background is added, the *mask*, or the *error* of the mask. Drag the handle on the image (or use the arrow keys on it) to see the image underneath. You can also drop an image of your own on the panel. The two small networks of PaperWorld know only cut paper: with `DATA = "paper"` their maps of a photograph mean nothing.
#
# The stage *error* shows the wrong pixels. There are four kinds of error. A wrong pixel has the first kind of this list that fits:
#
# | Kind | The wrong pixel |
# | --- | --- |
# | boundary | lies within two pixels of a border of the ground truth |
# | missed | belongs to an object and is predicted as background |
# | spilled | is background and is predicted as an object |
# | confused | belongs to one class and is predicted as another |
#
# The controls work while the notebook runs; a saved notebook keeps a still image of the panel. Each control can also be set by a line of code, such as `explorer.stage = "mask"`.

# %%
first = data.test[:6]
captions = first.captions if DATA == "paper" else None
show_samples(first, data.classes, captions)

# %% [markdown]
# Above each image are its image-level labels. The methods get these and **nothing else**. A `Sample` has no field for a mask.
#
# ## Two methods
#
# **Plain CAM** (class activation map; Zhou et al., CVPR 2016) trains a classifier on images and their labels. The map of a class shows which cells of the last features raised the score of that class. Here the classifier is one linear layer on a frozen backbone, which was trained on other images before; so training takes seconds.
#
# **CLIP-ES** (Lin et al., CVPR 2023) trains nothing here. It uses a CLIP and compares the image with the names of its classes and with a list of background prompts, such as `water` or `sky`. CLIP's attention then spreads each map over similar cells. For PaperWorld, the backbone and the CLIP are small ones that come with the package.

# %%
methods = {
    "CAM": partial(cam_maps, method=cam),
    "CLIP-ES": partial(clip_es_maps, method=clip_es),
}
print("loss, every tenth epoch:", [round(loss, 3) for loss in cam.losses_[9::10]])

# %% [markdown]
# ## One image
#
# Both methods have the same form: images (B, 3, H, W) and labels (B, C) go in, and one map per class (B, C, H, W) with values in [0, 1] comes out. We take the first image with two classes, if there is one.

# %%
sample = next((s for s in data.test if s.labels.sum() == 2), data.test[0])
maps = {
    name: maps_of(sample.image[None], sample.labels[None])[0]  # (C, H, W)
    for name, maps_of in methods.items()
}
rows = [sample._replace(name=name) for name in methods]  # the same image, named by the method
show_cams(rows, list(maps.values()), data.classes)

# %% [markdown]
# Look for three things. Does the map lie on the object or beside it? Does it cover the whole object? Are the maps of the two classes separate?
#
# ## From maps to a mask
#
# A map is not a mask. One setting, a threshold or a power, decides which pixels become background, and its best value differs from method to method. Choosing it needs ground truth. So we choose it on `val` and score on `test`. With a constant threshold `b`, a pixel is background unless a map exceeds `b`. The power rule gives background the score `(1 - max)^p`, where `max` is the largest map at the pixel.

# %%
rules = {
    name: best_rule(sweep_background(maps_of, data.val, data.val_masks))
    for name, maps_of in methods.items()
}
print("chosen on val:", {name: str(rule) for name, rule in rules.items()})

# %%
masks = {name: predict_masks(methods[name], data.test, rules[name]) for name in methods}
show_masks([sample], {**masks, "ground truth": data.test_masks}, data.classes)

# %% [markdown]
# ## Try it: the threshold
#
# The threshold is used only in the last step. So the maps are computed once, and the mask follows the threshold at once. Go back to the explorer, choose the stage `mask`, move the threshold and find the best one by eye; or change it by code, as below. Does your choice agree with the one made on `val`?

# %%
explorer.stage = "mask"
for threshold in (0.1, 0.3, 0.5, 0.7):
    explorer.threshold = threshold
    print(explorer.words)

# %% [markdown]
# ## One table
#
# The **IoU** (intersection over union) of a class is the number of pixels in both the prediction and the ground truth, divided by the number of pixels in at least one of them. Both numbers are summed over all images first. mIoU is the mean over the classes and background. The 95 % interval says how much mIoU changes with the choice of test images.

# %%
refinement = {"CAM": "none", "CLIP-ES": "attention affinity"}
preset = {"CAM": cam.preset, "CLIP-ES": clip_es.preset}
reports = {
    name: evaluate(
        masks[name],
        data.test_masks,
        classes=data.classes,
        protocol=data.protocol(
            "test",
            background=f"{rules[name]}, chosen on {len(data.val)} val images",
            refinement=refinement[name],
            preset=preset[name],
        ),
    )
    for name in methods
}
table = pd.DataFrame({name: 100 * report.to_frame()["iou"] for name, report in reports.items()})
table.loc["mean"] = table.mean()
for name, report in reports.items():
    print(f"{name}: {report.headline}\n    {report.protocol}")
table.round(1)

# %%
iou_bars(reports)

# %%
better = table["CLIP-ES"] > table["CAM"]
print(f"CLIP-ES is ahead in {better[:-1].sum()} of {len(better) - 1} rows, mean not counted")
print("largest difference:", (table["CLIP-ES"] - table["CAM"]).abs()[:-1].idxmax())

# %% [markdown]
# Read the protocol before you compare two numbers. Split and images must be the same. Background rule, refinement and preset may differ only where they belong to the method, as here. Remember also what each method has learned from: the classifier from a few hundred labelled images, CLIP from many more images with captions. The table says how the two methods do *here*. It does not say which paper is better.
#
# One question remains for the next notebooks. The classifier predicts the labels well (notebook 02 measures this). Why do its maps miss parts of an object and mark the background beside it?
#
# ## Exercises
#
# A check that ends in a red `NotImplementedError` waits for its exercise; this is intended. Write the function, run its cell and then the check.
#
# **Exercise 1. A threshold by hand.** Write the constant rule without the package: a pixel takes the class with the largest map if that map exceeds the threshold, else 0. Class `c` is value `c + 1`.


# %%
def mask_by_hand(maps, threshold):
    """(C, H, W) in [0, 1] -> (H, W) int64 with 0 for background and c + 1 for class c."""
    raise NotImplementedError("compare the largest map of each pixel with the threshold")


# %% tags=["solution"]
def mask_by_hand(maps, threshold):
    """(C, H, W) in [0, 1] -> (H, W) int64 with 0 for background and c + 1 for class c."""
    best, c = maps.max(0)
    return torch.where(best > threshold, c + 1, 0)


# %% tags=["check"]
tiny = torch.tensor([[[0.9, 0.2]], [[0.3, 0.25]]])  # two classes, one row of two pixels
assert mask_by_hand(tiny, 0.5).tolist() == [[1, 0]]
assert mask_by_hand(tiny, 0.1).tolist() == [[1, 2]]
assert mask_by_hand(tiny, 0.25).tolist() == [[1, 0]]  # equal to the threshold does not exceed it
print("passed")

# %% [markdown]
# **Exercise 2. IoU by hand.** Compute the IoU of one class over several images: sum overlaps and unions over all images, *then* divide.


# %%
def iou_by_hand(predicted, target, value):
    """Mappings name -> (H, W) int64 and a mask value -> IoU in [0, 1]; 255 in a target is ignored."""
    raise NotImplementedError("two sums over the images, one division")


# %% tags=["solution"]
def iou_by_hand(predicted, target, value):
    """Mappings name -> (H, W) int64 and a mask value -> IoU in [0, 1]; 255 in a target is ignored."""
    overlap = union = 0
    for name, truth in target.items():
        counted = truth != 255
        ours, theirs = (predicted[name] == value) & counted, (truth == value) & counted
        overlap += (ours & theirs).sum().item()
        union += (ours | theirs).sum().item()
    return overlap / union


# %% tags=["check"]
for value in (0, int(sample.labels.argmax()) + 1):
    by_hand = iou_by_hand(masks["CLIP-ES"], data.test_masks, value)
    expected = reports["CLIP-ES"].iou[value]
    assert abs(by_hand - expected) < 1e-9, f"value {value}: {by_hand}, expected {expected}"
print("passed")

# %% [markdown]
# ## Recap
#
# - Image-level labels go in, maps come out, a background rule turns maps into masks, and IoU scores the masks. Ground truth is used twice: on `val` to choose the background rule, on `test` to score.
# - Plain CAM learns its classes from these images and labels. CLIP-ES uses what CLIP learned from captions, and it needs background prompts.
# - Report a number together with its protocol.
#
# ## What to open next
#
# | If you ask | open |
# | --- | --- |
# | what does an image-level label say, and what not? | `01_image_level_labels` |
# | how is a CAM computed, and why does it miss parts of an object? | `02_class_activation_maps` |
# | how do sub-categories make a map larger? | `03_sc_cam_subcategories` |
# | how do losses from text move a map off the background? | `04_clims_text_losses` |
# | why background prompts and a softmax? | `05_clip_es_softmax_grad_cam` |
# | how does an affinity spread a map over the object? | `06_affinity_and_random_walk` |
# | how does a map become a mask with sharp edges? | `07_background_and_crf` |
# | how can an image without labels be segmented? | `08_train_a_segmenter` |
# | is one score better than another, and why? | `09_iou_analysis` |
#
# `notebooks/papers.md` lists, for each idea of the papers, its function and its cell.
#
# **Further reading.** B. Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016: CAM is its Eq. 2. Y. Lin et al., *CLIP is Also an Efficient Segmenter*, CVPR 2023 (CLIP-ES): softmax Grad-CAM is Eq. 4 to 6. Y.-T. Chang et al., *Weakly-Supervised Semantic Segmentation via Sub-category Exploration*, CVPR 2020 (SC-CAM). J. Xie et al., *CLIMS: Cross Language Image Matching for Weakly Supervised Semantic Segmentation*, CVPR 2022. A. Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021 (CLIP).
