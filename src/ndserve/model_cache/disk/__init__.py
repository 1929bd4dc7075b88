"""The models on the disk: what there is, what it says of itself, how it comes and goes, and what is refused."""
