"""Feature networks, and weights of some that come with the package."""
