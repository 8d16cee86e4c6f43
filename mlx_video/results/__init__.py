"""What jobs make: a clip, how it is shown, stored, and made again."""
