"""ctfast: fast inference for latent flow and diffusion models of 3D CT and MR."""
