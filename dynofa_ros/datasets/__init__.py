"""Images on disk: read in one way, with their classes or their boxes."""
