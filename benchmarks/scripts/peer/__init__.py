"""What ctfast is measured against."""
