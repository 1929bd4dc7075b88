"""Models: what exists on disk (`repository`), what is resident (`cache`), what can run (`session`)."""
