"""Instruments for notebooks: look at maps, try prompts, find errors.

Each keeps its state in traits, so a line of code does what a hand does, with or without a screen;
each has a ``still()`` for paper.
"""

from wsss_kit.widgets.atlas import ErrorAtlas
from wsss_kit.widgets.explorer import CAMExplorer
from wsss_kit.widgets.lab import PromptLab
