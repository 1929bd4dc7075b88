"""The engine: what is accepted (`service`), in which order it runs (`batcher`), and where (`lane`)."""
