"""Simulations: that they follow from their seeds, find what is wrong, and say it well."""
