"""What a node tells of itself: metrics, traces, logs."""
