"""What generated volumes are worth: metrics against real ones, and quality against network calls."""
