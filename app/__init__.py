"""Age and gender of the faces in a photograph: the service."""
