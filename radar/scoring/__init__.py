"""What samples are judged by."""
