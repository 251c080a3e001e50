"""What each choice of a method does, one measured beside the other."""

from wsss_kit.ablation.looks import LOOK_STEPS, LookStep, ablate_looks
from wsss_kit.ablation.losses import LOSS_STEPS, LossStep, ablate_losses
from wsss_kit.ablation.subcategories import (
    SUBCATEGORY_STEPS,
    SubcategoryStep,
    ablate_subcategories,
)

__all__ = [
    "LOOK_STEPS",
    "LOSS_STEPS",
    "SUBCATEGORY_STEPS",
    "LookStep",
    "LossStep",
    "SubcategoryStep",
    "ablate_looks",
    "ablate_losses",
    "ablate_subcategories",
]
