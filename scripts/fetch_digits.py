"""Writes assets/digits/data.safetensors from scikit-learn's copy of the UCI digits (run once; needs scikit-learn)."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from erase.data.images import split
from erase.files import shipped, write_tensors

digits = load_digits()
write_tensors(
    shipped("assets") / "digits" / "data.safetensors",
    {
        "images": torch.from_numpy(digits.images.astype(np.uint8)),
        "labels": torch.from_numpy(digits.target.astype(np.uint8)),
        "held_out": torch.from_numpy(split(digits.target.astype(np.int64)).astype(np.uint8)),
    },
    {
        "source": "UCI Machine Learning Repository, Optical Recognition of Handwritten Digits (test part), "
        "E. Alpaydin and C. Kaynak, 1998, doi:10.24432/C50P49, as shipped in scikit-learn",
        "licence": "CC BY 4.0",
        "values": "images 0..16, 8 x 8; held_out 1 marks images no training may see",
    },
)
