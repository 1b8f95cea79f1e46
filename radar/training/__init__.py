"""What is trained, and how it goes on after a stop."""
