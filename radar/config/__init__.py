"""What can be configured, how it is read, and how a name becomes a variant."""
