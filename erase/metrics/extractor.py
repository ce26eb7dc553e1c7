"""An instrument's feature layer as a registered torch-fidelity extractor."""

from __future__ import annotations

from typing import Any

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from ..classifier import Instrument


def register(instrument: Instrument) -> str:
    """Registers ``instrument`` with torch-fidelity, once a content; the name to pass as ``feature_extractor``."""
    name = f"erase-{instrument.key}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name

    class PackExtractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: Any, **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.network = instrument.network

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (instrument.network.feature_layer,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return instrument.network.feature_layer

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> torch.Tensor:
            return torch.zeros(1, 3, 32, 32, dtype=torch.uint8)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self.network(images)[1],)

    register_feature_extractor(name, PackExtractor)
    return name
