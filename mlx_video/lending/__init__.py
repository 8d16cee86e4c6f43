"""A part of a checkpoint becomes a network with weights, and goes again."""
