"""Task vectors: their cosines, and models merged by adding them (SR26 section 5.2)."""
