"""From a prompt to what the transformer attends to: tokens, Gemma 3's hidden states, features, connectors, contexts."""
