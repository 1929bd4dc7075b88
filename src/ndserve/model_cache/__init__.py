"""Models: on the disk (`disk/`), resident (`cache`), on their way in (`loader`), able to run (`session`)."""
