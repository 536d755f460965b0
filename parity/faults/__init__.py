"""The catalogue of porting faults: injected in ports, found by the ladder, explained by causes."""
