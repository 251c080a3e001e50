# %% [markdown]
# # 03 SC-CAM: ask a finer question
#
# A classifier that has to say *boat* needs only the sail, so its map shows the sail. If it has to say *which* boat, a wooden or a red one, it needs the hull too. Nobody has labelled wooden boats, but a trained network has features in which similar objects are close together. SC-CAM (Chang et al., CVPR 2020) clusters the images of every class, uses the clusters as labels of **sub-categories**, trains on them, and repeats this. This notebook does each step, looks at the clusters and names them. It finds that two choices decide whether the maps gain: *what* is clustered, and *which* maps are used.
#
# ```text
# images (B,3,H,W) ─┐
#                   ├─► features ─► CAMs ─► refinement ─► pseudo masks ─► segmenter ─► IoU, errors
# labels (B,C)     ─┘                ▲
#                                    └── you are here
# ```
#
# **Goals.** You can (1) explain why a finer question makes a larger map, (2) say what an average over a whole image clusters by, and measure it, (3) name clusters by CLIP, (4) run the rounds and judge them without a mask, (5) tell the parent's map from its children's.
#
# **Needs.** No network, no GPU, no other notebook; it helps to know 02. **Time.** Two and a half minutes of computing on two cores, most of it training; GPU not measured; 60 minutes of reading. **Words.** [glossary.md](glossary.md)
#
# <details><summary><b>Plan for the teacher, 75 minutes</b></summary>
#
# | Minutes | What | How |
# | --- | --- | --- |
# | 0 to 10 | Cluster by hand | show the images of the first cell: into which three groups would you divide them? |
# | 10 to 25 | What is clustered | guess before you run the table: what do whole images of one cluster have in common? |
# | 25 to 35 | Names | each group gives a cluster a name, then CLIP does |
# | 35 to 60 | Rounds, parent and children | start the training, draw the expected maps meanwhile |
# | 60 to 75 | k, exercises | 2 alone, 3 in pairs |
#
# </details>

# %%
from functools import partial

import pandas as pd
import torch

from wsss_kit import SCCAM, cam_maps, class_activation_maps, load_clip
from wsss_kit.classes import labels_of
from wsss_kit.evaluation import CONSTANTS

# %%
from wsss_kit.methods.sc_cam import (
    agreement,
    class_features,
    exemplars,
    kmeans,
    listed,
    name_subcategories,
    plane,
    purity,
    stability,
    subcategory_labels,
)
from wsss_kit.methods.sc_cam.train import joint_loss
from wsss_kit.notebook_data import make_sc_cam, open_data, train_cam
from wsss_kit.paperworld import part_recall, subtype_labels, subtype_names
from wsss_kit.paperworld.words import ANIMAL_STYLES, STUFF, VEHICLE_STYLES
from wsss_kit.plot import show_cams, show_clusters, show_plane, show_samples, step_bars

# %%
DATA = "paper"  # or "voc", "folder"

# %%
data = open_data(DATA, n_train=240, n_val=40, n_test=60)
FIT = {"batch_size": 8, "learning_rate": 0.01}  # few images: small steps, and more of them
if DATA != "paper":
    FIT = {"epochs": 3, "crop": 224, "long_side": (256, 512)}
C, K = len(data.classes), 3 if DATA == "paper" else 10
cam = train_cam(data)
labels = labels_of(data.train)  # (M, C)
c = int(labels.sum(0).argmax()) if DATA != "paper" else data.classes.index("boat")
of_c = [s for s in data.train if s.labels[c] > 0][:6]
show_samples(of_c, data.classes)

# %% [markdown]
# These images have one label in common, but the objects differ. How would you divide them into three groups?
#
# ## What a network sees in them
#
# The network gives every image a feature vector, and similar images have vectors that are close together. Which vector? The paper uses the one of the classifier: the **mean over the whole image**. Another choice is the mean **weighted by the class's own map**, so that cells on the object count most.
#
# $$\bar F = \frac{1}{hw}\sum_{u} F_u \qquad\qquad \bar F_c = \frac{\sum_u M_{c,u}\,F_u}{\sum_u M_{c,u}}, \quad M_c = \mathrm{ReLU}(w_c^\top F)$$

# %%
# by hand: both vectors of one image
sample = of_c[0]
with torch.no_grad():
    F = cam.backbone_(sample.image[None].to(cam.head_.device))  # (1, D, h, w)
M = class_activation_maps(F, cam.head_.detach())[0, c].relu()  # (h, w)
whole, own = F[0].mean((1, 2)), (M * F[0]).sum((1, 2)) / M.sum()

features = {
    "whole image": class_features(
        cam.backbone_, cam.head_.detach(), data.train, features="picture", shown=False
    ),  # (M, D): the mean over the whole image, as published
    "own map": class_features(
        cam.backbone_,
        cam.head_.detach(),
        data.train,
        features="own_map",
        unit_length=True,
        shown=False,
    ),  # (M, C, D)
}
row = next(i for i, s in enumerate(data.train) if s.name == sample.name)
assert torch.allclose(features["whole image"][row], whole, atol=1e-4)
assert torch.allclose(features["own map"][row, c], own / own.norm(), atol=1e-4)

# %% [markdown]
# **k-means** divides the vectors into k clusters: choose k centres, assign every vector to the nearest one, move each centre to the mean of its vectors, and repeat until nothing changes. This is done from ten starts, and the best result is kept. Every class is clustered separately, so an image with two classes is clustered twice.

# %%
found = {name: subcategory_labels(values, labels, k=K) for name, values in features.items()}
print({name: tuple(labels_.shape) for name, labels_ in found.items()}, "of 0 and 1")


def rows_of(features, subcategories, names, n=4):
    """Exemplars of the sub-categories of class c: the images nearest to each centre."""
    near = exemplars(features, subcategories, n_classes=C, n=n)[c * K : (c + 1) * K]
    return {name: [data.train[i] for i in rows] for name, rows in zip(names, near, strict=True)}


numbered = [f"{data.classes[c]} {j + 1}" for j in range(K)]
show_clusters(rows_of(features["whole image"], found["whole image"], numbered))

# %%
show_clusters(rows_of(features["own map"], found["own map"], numbered))

# %% [markdown]
# Look at the rows before you read on. What do the images of a row have in common in the first figure, and what in the second?
#
# ## What do they cluster by?
#
# *PaperWorld* knows the material of every body (the **sub-type**: wooden, red or striped for vehicles; spotted, golden or grey for animals) and the kind of **background**. How much do the clusters agree with each of the two? The **normalised mutual information** (NMI) is 1 if two divisions are the same and 0 if one says nothing about the other; the names of the clusters do not matter.
#
# **Predict first:** what do whole images of one cluster have in common, and what do own maps?

# %% tags=["predict"]
if DATA == "paper":
    truth = subtype_labels(data.train)  # (M, C * 3)
    most = [
        data.train.stuff[n][data.train.stuff[n] < len(STUFF)]
        .bincount(minlength=len(STUFF))
        .argmax()
        for n in data.train.names
    ]
    kinds = torch.nn.functional.one_hot(torch.stack(most), len(STUFF)).float()  # (M, 12)
    backgrounds = (labels[:, :, None] * kinds[:, None]).flatten(1)  # (M, C * 12)
    table = {
        name: {
            "NMI with the sub-type": agreement(clusters, truth, n_classes=C).mean_nmi,
            "NMI with the background": agreement(clusters, backgrounds, n_classes=C).mean_nmi,
        }
        for name, clusters in found.items()
    }
pd.DataFrame(table).T.round(2) if DATA == "paper" else None

# %% [markdown]
# The same as a figure: the features of one class, projected to two dimensions by PCA, once coloured by sub-type and once by background.

# %%
panels = {}
if DATA == "paper":
    alone = truth.unflatten(1, (C, 3))[:, c].sum(1) == 1
    rows = ((labels[:, c] > 0) & alone).nonzero().flatten()
    styles = [subtype_names()[3 * c + int(truth[i, 3 * c : 3 * c + 3].argmax())] for i in rows]
    places = [STUFF[int(kinds[i].argmax())] for i in rows]
    home = max(set(places), key=places.count)
    places = [home if place == home else "elsewhere" for place in places]
    flat = {
        "whole image": plane(features["whole image"][rows]),
        "own map": plane(features["own map"][rows, c]),
    }
    panels = {f"{name}: sub-type": (points, styles) for name, points in flat.items()}
    panels |= {f"{name}: background": (points, places) for name, points in flat.items()}
show_plane(panels) if panels else None

# %% [markdown]
# A mean over a whole image is mostly a mean over what is *not* the object, because that area is larger. So whole images form clusters by background and by the other classes in the image: boats with birds in the leaves, boats with animals on land, boats alone. A network that trains on these clusters learns the background, which we do not want. Weighted by the class's own map, the mean is mostly of the object, and the clusters are clusters of objects.
#
# On photographs the difference is smaller, because an object fills more of the image and a backbone with ImageNet weights responds more to objects. The paper clusters whole images and gains. If whole images bring no gain on your data, try the class's own map first.
#
# ## What are they called?
#
# A cluster has a number. CLIP can give it a name. Mask each image by its map, let CLIP give a probability to each phrase of a word list, and take the phrase whose mean probability is higher *in this cluster than in the other clusters of the class*. The difference is the **lift**. A phrase that fits all boats has no lift.

# %%
clip = load_clip("paper") if DATA == "paper" else None
words = (*VEHICLE_STYLES, *ANIMAL_STYLES)
if DATA == "paper":
    named = name_subcategories(clip, cam, data.train, found["own map"], words, shown=False)
    pure = purity(found["own map"], truth, n_classes=C)
    table = pd.DataFrame(
        {
            "cluster": [f"{data.classes[i // K]} {i % K + 1}" for i in range(C * K)],
            "images": found["own map"].sum(0).int().tolist(),
            "named by CLIP": listed(named, data.classes, K),
            "lift": [max(lifts.values(), default=0) for lifts in named],
            "mostly": [subtype_names()[j] if j >= 0 else "" for j in pure.kind.tolist()],
            "purity": pure.share.tolist(),
        }
    ).set_index("cluster")
    best = pd.Series([next(iter(lifts), "") for lifts in named], table.index)
    clear = table["purity"] >= 0.7
    right = (best == table["mostly"])[clear].sum()
    print(
        f"{right} of the {clear.sum()} clusters with a purity of 0.7 or more have their true name"
    )
table.round(2) if DATA == "paper" else None

# %% [markdown]
# You can write the word list yourself: with photographs, try `{"dog": ("small", "fluffy", "hunting"), ...}` and a CLIP of OpenAI. A lift near zero says that none of the words fits. A number behind a name, as in *striped plane 3*, says that CLIP gives the name to two clusters of the class: here k-means has divided the striped planes and put the others into one cluster.
#
# ## Two questions at once
#
# The network gets a second head. The first has C outputs, one for each class (the *parent*); the second has C · k, one for each sub-category (its *children*). Both use the same pooled features. The loss is the sum of two binary cross-entropies, the second with a weight of 5.
#
# $$L = L_{\text{parent}}(z^{C}, y) + \lambda\, L_{\text{sub}}(z^{Ck}, y^{\text{sub}})$$

# %%
# by hand: the joint loss of a batch
pooled = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))  # (B, D)
head, sub_head = torch.ones(2, 6) * 0.1, torch.ones(6, 6) * 0.1  # two classes, three children each
y, y_sub = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]] * 4)


def binary(logits, targets):
    """Mean over outputs and images of -log of the probability of the right answer."""
    p = torch.sigmoid(logits)
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


by_hand = binary(pooled @ head.T, y) + 5 * binary(pooled @ sub_head.T, y_sub)
assert torch.allclose(by_hand, joint_loss(pooled, head, sub_head, y, y_sub, weight=5.0)["total"])

# %% [markdown]
# ## Rounds
#
# One round: cluster the features, then train with the clusters as labels. The next round clusters the features of the trained network and starts the training *anew*, from the same initial weights; only the sub-category labels carry over. There are three rounds. `on_round` calls a function after each. For comparison we also train a **control**: as long as one round, from the same weights, without the sub-categories. A gain of the control comes from longer training and not from the method.

# %%
watched = [next(s for s in data.test if s.labels[k] > 0 and s.labels.sum() == 1) for k in (0, 3, 7)]
watched = watched if DATA == "paper" else list(data.test[:3])
frames, reports, looks = {}, {}, {}


def shown(name, method):
    """Keep the maps of the watched images, one class each."""
    frames[name] = [
        cam_maps(s.image[None], s.labels[None], method=method)[0, int(s.labels.argmax())]
        for s in watched
    ]


def measure(name, method):
    """IoU on test by the constant that is best on val, and what is found of the objects."""
    options = {"rules": CONSTANTS, "preset": method.preset, "shown": False}
    chosen, reports[name] = data.score(partial(cam_maps, method=method), **options)
    looks[name] = {"mIoU": 100 * reports[name].mean_iou}
    if DATA == "paper":
        recall = part_recall(chosen.masks, data.test)
        looks[name] |= {f"{part} found": 100 * share for part, share in recall.items()}


# %% [markdown]
# `data.score` does what notebook 02 did step by step: it chooses the background rule on `val`, makes the masks of `test` and scores them.


# %%


def look(number, method):
    """After every round: the maps of parent and children, and how far the clusters are right."""
    for read_out in ("parent", "children"):
        method.read_out = read_out
        if number in (1, 3):
            measure(f"round {number}, {read_out}", method)
        if number == 3:
            shown(f"{read_out}, round {number}", method)


control = make_sc_cam(data, cam, subcategory_weight=0.0, rounds=1, read_out="parent")
control.fit(data.train, **FIT)
measure("CAM", cam)
measure("control", control)
shown("control", control)
sc_cam = make_sc_cam(data).fit(data.train, on_round=look, **FIT)

# %% [markdown]
# Without masks we can check whether the rounds converge: do the clusters stay the same from round to round? In *PaperWorld* we can also check whether they agree with the sub-types.

# %%
progress = {
    f"round {i + 1}": {
        "NMI with the round before": same.mean_nmi if same else None,
        "NMI with the sub-type": (
            agreement(clusters, truth, n_classes=C).mean_nmi if DATA == "paper" else None
        ),
    }
    for i, (clusters, same) in enumerate(
        zip(sc_cam.rounds_, [None, *stability(sc_cam.rounds_, n_classes=C)], strict=True)
    )
}
pd.DataFrame(progress).T.astype(float).round(2)

# %% [markdown]
# Do the rounds converge? Not within three. The clusters of neighbouring rounds agree well, but the second pair of rounds agrees no better than the first, and the agreement with the sub-types rises in round 2 and falls again in round 3. Each round trains anew, so its features, and its clusters, are a new draw. The paper stops after three rounds. Without sub-types, compare the rounds on `val` and keep the best.

# %%
print(reports["CAM"].protocol)
pd.DataFrame(looks).T.round(0).astype(int)

# %%
images = [s._replace(name=data.classes[int(s.labels.argmax())]) for s in watched]
columns = [torch.stack([frame[i] for frame in frames.values()]) for i in range(len(watched))]
show_cams(images, columns, list(frames), torch.ones(len(watched), len(frames)))

# %% [markdown]
# This is the main result. The **parent's** map hardly changes: the head is still enough to tell *cat*, and the sub-category loss changes little about that. The **children's** map is, at every cell, the largest map of the class's sub-categories. In the figure it covers more of the body, because only the body shows that a cat is *spotted*: the cat's map moves from the head to the coat, the bus's grows along its side. (The boat's map hardly changes; the training is short.) In the table, read both columns: each row has its own threshold, so a row can find much of the body and also mark much background. The children have the highest mIoU. So the gain is in the maps of the head that has learned the sub-categories.
#
# The paper uses the parent's map and gains with it on photographs; a user of its code who merged the children's maps scored less. So check both.

# %%
step_bars({"no refinement": reports})

# %% [markdown]
# Two results. The control's mIoU gains nothing by longer training, so the gain of the children comes from the sub-categories. And the later rounds gain hardly anything *here*: with 240 images and good initial features, the first clusters were nearly right, and the later ones agree with the sub-types a little less.

# %% [markdown] tags=["larger"]
# **A larger run.** With 1,000 images the later rounds gain a little (200 `test` images, mean of two seeds; the map of the children):
#
# | | control | round 1 | round 2 | round 3 |
# | --- | --- | --- | --- | --- |
# | mIoU, % | 44.8 | 53.6 | 54.1 | 54.6 |
# | body found, % | 65 | 70 | 74 | 76 |
# | NMI with the sub-types | | 0.90 | 0.96 | 0.97 |

# %% [markdown]
# **Your turn: how many sub-categories?** k is not known. PaperWorld has three sub-types per class; the paper uses ten for every class. One round with another k:

# %%
k = 6
if DATA == "paper":
    other = make_sc_cam(data, cam, n_subcategories=k, rounds=1).fit(data.train, **FIT)
    measure(f"k = {k}, round 1, children", other)
    print(f"k = {K}: {looks['round 1, children']['mIoU']:.1f} mIoU, ", end="")
    print(f"k = {k}: {looks[f'k = {k}, round 1, children']['mIoU']:.1f}, ", end="")
    print(f"control {looks['control']['mIoU']:.1f}")

# %% [markdown]
# With six clusters per class, each has too few images for so short a training, and the mIoU falls below the control's.

# %% [markdown] tags=["larger"]
# **A larger run.** One round with 1,000 images (200 `test` images, one seed):
#
# | | control | k = 2 | k = 3 | k = 6 | k = 10 |
# | --- | --- | --- | --- | --- | --- |
# | mIoU, % | 44.7 | 50.4 | 52.9 | 48.2 | 41.4 |
#
# With too few clusters, two sub-types share one; with too many, each cluster has too few images. VOC has 10,582 images for the paper's 200 sub-categories.

# %% [markdown]
# ## What a longer training brings
#
# Each round here used 240 images. The package has weights that were trained on 1,000 images for as many epochs; their file also holds the clusters of all rounds.

# %%
if DATA == "paper":
    longer = SCCAM.load("paper")
    measure("package, children", longer)
    print(reports["package, children"].headline)
    print(f"control of this notebook: {reports['control'].headline}")

# %% [markdown]
# ## Exercises
#
# A check that ends in a red `NotImplementedError` waits for its exercise; this is intended. Write the function, run its cell and then the check.
#
# **Exercise 1. One step of k-means.** Assign every point to its nearest centre, and move the centres.


# %%
def step(points, centres):
    """Points (N, D), centres (k, D), no cluster empty -> labels (N,), new centres (k, D)."""
    raise NotImplementedError("torch.cdist, argmin, and a mean for every centre")


# %% tags=["solution"]
def step(points, centres):
    """Points (N, D), centres (k, D), no cluster empty -> labels (N,), new centres (k, D)."""
    nearest = torch.cdist(points, centres).argmin(1)
    return nearest, torch.stack([points[nearest == j].mean(0) for j in range(len(centres))])


# %% tags=["check"]
some = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
best = kmeans(some, 3, tolerance=1e-9)
again, moved = step(some, best.centres)
assert torch.equal(again, best.labels) and torch.allclose(moved, best.centres, atol=1e-5)
print("passed")

# %% [markdown]
# **Exercise 2. The children's map.** Compute the map of every class from the maps of its sub-categories: at every cell the largest of them, negative values set to 0, divided by the maximum over the cells.


# %%
def childrens_map(maps, k):
    """Maps (C * k, h, w), each class with a positive cell -> (C, h, w), the largest cell 1."""
    raise NotImplementedError("unflatten, amax, relu, and a division by the maximum")


# %% tags=["solution"]
def childrens_map(maps, k):
    """Maps (C * k, h, w), each class with a positive cell -> (C, h, w), the largest cell 1."""
    largest = maps.relu().unflatten(0, (-1, k)).amax(1)
    return largest / largest.amax((1, 2), keepdim=True)


# %% tags=["check"]
raw = torch.randn(6, 5, 5, generator=torch.Generator().manual_seed(2))
mine = childrens_map(raw, 3)
assert mine.shape == (2, 5, 5) and torch.allclose(mine.amax((1, 2)), torch.ones(2))
assert mine[1, 2, 3] == max(0, raw[3, 2, 3], raw[4, 2, 3], raw[5, 2, 3]) / raw[3:].max()
print("passed")

# %% [markdown]
# **Exercise 3. Purity.** The purity of a cluster is the share of its most frequent kind. Why is it a worse measure than NMI when k grows? Write your answer below the check.


# %%
def purities(clusters, kinds):
    """Clusters one-hot (M, k), none empty, and kinds one-hot (M, j) -> (k,) in [0, 1]."""
    raise NotImplementedError("count pairs with a matrix product")


# %% tags=["solution"]
def purities(clusters, kinds):
    """Clusters one-hot (M, k), none empty, and kinds one-hot (M, j) -> (k,) in [0, 1]."""
    counts = clusters.T @ kinds  # (k, j)
    return counts.amax(1) / counts.sum(1)


# %% tags=["check"]
heaps = torch.eye(2)[torch.tensor([0, 0, 0, 1])]
sorts = torch.eye(3)[torch.tensor([2, 2, 1, 0])]
assert torch.allclose(purities(heaps, sorts), torch.tensor([2 / 3, 1.0]))
assert torch.allclose(purities(heaps, sorts), purity(heaps, sorts, n_classes=1).share)
assert purities(torch.eye(4), sorts).min() == 1
print("passed")

# %% [markdown]
# ## Recap
#
# - A map shows what the classifier needs for its prediction. To predict a sub-category it needs more of the object.
# - Labels of sub-categories can be found by clustering, if the features are of the object and not of the background.
# - The gain is in the children's maps, because the children's head has learned the sub-categories.
# - To claim a gain, compare with a control that is trained as long.
# - Clusters can be checked without masks: do they stay the same, and does CLIP find a name for them?
#
# ## What to open next
#
# | If you ask | open |
# | --- | --- |
# | why do maps mark the background in the first place? | `02_class_activation_maps` |
# | can losses from text move a map off the background? | `04_clims_text_losses` |
# | how does the paper refine its maps? | `06_affinity_and_random_walk` |
# | how is background scored, and what does a CRF add? | `07_background_and_crf` |
#
# **Further reading.** Y.-T. Chang et al., *Weakly-Supervised Semantic Segmentation via Sub-category Exploration*, CVPR 2020: the joint loss and the rounds are section 3. D. Arthur and S. Vassilvitskii, *k-means++: The Advantages of Careful Seeding*, SODA 2007. J. Ahn and S. Kwak, *Learning Pixel-level Semantic Affinity with Image-level Supervision*, CVPR 2018, whose network and random walk the paper builds on.
