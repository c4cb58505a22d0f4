"""A study's files: written whole, verified when they are read, told apart by content."""
