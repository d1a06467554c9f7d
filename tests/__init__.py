"""The tests of AegisIPC, one folder per part."""
