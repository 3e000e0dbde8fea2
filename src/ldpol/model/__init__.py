"""The generative model: autoencoder, denoiser, sampler, and their training."""
