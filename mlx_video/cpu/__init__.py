"""What only CPUs need; on a Mac none of it runs."""
