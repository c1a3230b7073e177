"""Feature networks, what they are shown of a volume, and features kept on disk."""
