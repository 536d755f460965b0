"""Carries neural networks between PyTorch and JAX, and proves that nothing was lost."""
