"""Our methods in other people's loops. Nothing else in the package knows that these exist."""
