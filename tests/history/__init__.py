"""What the checker of histories accepts and refuses."""
