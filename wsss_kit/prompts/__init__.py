"""What a vision-language model is asked, as objects that can be checked, edited and saved."""

from wsss_kit.prompts.prompts import FUSIONS, Prompts
