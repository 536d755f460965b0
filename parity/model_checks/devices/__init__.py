"""Training on several devices: DDP, pmap and shard_map against one device and a prediction."""
