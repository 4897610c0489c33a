"""Models in memory, faces to ages and genders, and the bounded pool that does the work. No HTTP."""
