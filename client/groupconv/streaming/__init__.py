"""Feature maps larger than a message."""
