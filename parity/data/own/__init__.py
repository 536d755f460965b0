"""Data sets of the user's: a folder of images and masks, or of classes, and a small TOML file."""
