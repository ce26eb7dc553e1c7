"""How fast erase is, as ratios: each of two sides measured in turns in one run. ``python -m scripts.benchmark``."""
