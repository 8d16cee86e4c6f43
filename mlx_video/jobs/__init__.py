"""What can be asked for, one file each, from a request to a result; the only layer that knows the order of a run."""
