"""Recording of each layer's inputs, outputs and gradients on both sides."""
