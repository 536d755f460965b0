"""Several devices on the ladder: DDP, pmap and shard_map against one device, and a prediction."""
