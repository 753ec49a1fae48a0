"""Noises, the denoising autoencoder, and what stands before it."""
