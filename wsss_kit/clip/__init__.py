"""A frozen CLIP: embeddings of texts, of images and of every patch."""

from wsss_kit.clip.frozen import OPENAI_MEAN, OPENAI_STD, WALK_SQUARINGS, FrozenCLIP
from wsss_kit.clip.last_block import LastBlock
from wsss_kit.clip.vision import SIMILARITY
from wsss_kit.clip.weights import load_clip
