"""What made things that the repository ships; nothing here is imported by the package."""
