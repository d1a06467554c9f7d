"""What a node tells about itself: events to observers, and logs."""
