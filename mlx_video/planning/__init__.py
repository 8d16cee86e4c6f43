"""How a run keeps within its memory, or why it cannot."""
