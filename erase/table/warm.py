"""What every cell imports. Nothing is computed here: a process that is to be copied must have started no threads."""

from diffusers import AutoencoderKL, DiTTransformer2DModel, DPMSolverMultistepScheduler

from . import work

__all__ = ["AutoencoderKL", "DPMSolverMultistepScheduler", "DiTTransformer2DModel", "work"]
