"""Studies: both frameworks trained from the same seeds, and whether their accuracies differ."""
