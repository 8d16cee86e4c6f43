"""From what a user names to a described checkpoint; reads headers alone."""
