"""The catalogue of porting faults: planted in ports, found by the ladder, explained by causes."""
