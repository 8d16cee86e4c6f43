"""Files on the Hugging Face hub: which are needed, their headers, and their download."""
