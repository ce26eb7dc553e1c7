"""How fast erase is, as ratios: each between two sides measured in turns in one run. ``python -m scripts.benchmark``."""
