"""Mathematics of sampling; knows no network and no file."""
