"""Real processes under real faults: killed, stopped, cut off; what they did is recorded and checked."""
