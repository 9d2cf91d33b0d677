"""Features of frozen networks: views of faces, the backbone that reads them, and the cache that keeps the features."""
