"""The catalogue of porting faults: injected into ports, to test the ladder and the diagnosis."""
