"""How PyTorch computes faster what the layers say, apart from them."""
