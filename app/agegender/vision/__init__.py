"""Pixels: reading image files, finding faces, cropping them. Arrays only."""
