"""What every cell imports. Nothing is computed here: a process that is to be copied must have started no threads."""

import signal

from diffusers import AutoencoderKL, DiTTransformer2DModel, DPMSolverMultistepScheduler

from . import work

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all at once: this process is to outlive parent and cells

__all__ = ["AutoencoderKL", "DPMSolverMultistepScheduler", "DiTTransformer2DModel", "work"]
