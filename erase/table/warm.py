"""What every cell imports. Nothing is computed here: a process that is to be copied must have started no threads."""

import os
import signal

for _number in (signal.SIGINT, signal.SIGTERM):  # sent to all at once: this process is to outlive parent and cells
    signal.signal(_number, signal.SIG_IGN)
os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))

from diffusers import AutoencoderKL, DiTTransformer2DModel, DPMSolverMultistepScheduler  # noqa: E402

from . import work  # noqa: E402

__all__ = ["AutoencoderKL", "DPMSolverMultistepScheduler", "DiTTransformer2DModel", "work"]
