"""What each choice of a method does: trained once for each, and measured by more than mIoU."""

from wsss_kit.ablation.losses import LOSS_STEPS, LossStep, ablate_losses
from wsss_kit.ablation.subcategories import (
    SUBCATEGORY_STEPS,
    SubcategoryStep,
    ablate_subcategories,
)

__all__ = [
    "LOSS_STEPS",
    "SUBCATEGORY_STEPS",
    "LossStep",
    "SubcategoryStep",
    "ablate_losses",
    "ablate_subcategories",
]
