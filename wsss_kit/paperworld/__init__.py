"""The embedded world: images drawn from a seed, and the tiny CLIP that has read about them."""

from wsss_kit.paperworld.words import HOME, STUFF, SUBTYPES
from wsss_kit.paperworld.world import PaperWorld
