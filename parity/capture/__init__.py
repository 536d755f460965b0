"""What both sides computed: each layer's inputs, outputs and gradients, recorded."""
