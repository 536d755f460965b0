"""A recipe run in small on both sides, and the parts of a step against witnesses of their own."""
