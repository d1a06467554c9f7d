"""The pytest plugin, tried as its users use it."""
