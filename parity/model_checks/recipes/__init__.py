"""Training a scaled-down recipe on both sides, and checks of each part against third parties."""
