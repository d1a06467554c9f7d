"""The rules of the house, proven from the source."""
