"""Tests of the core's values, bytes, plug-ins and settings."""
