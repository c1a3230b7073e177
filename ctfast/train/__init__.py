"""Training in PyTorch: VAE, rectified flow, ControlNet, after the recipe of MAISI-v2 (arXiv 2508.05772)."""
