"""From a prompt to what the transformer attends to: tokens and T5's hidden states."""
