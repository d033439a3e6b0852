"""Published results, rerun: how each paper trained, what it found, and whether we find it too."""
