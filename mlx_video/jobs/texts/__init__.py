"""From prompts to contexts, and contexts in files of their own."""
