"""Pixels: reading image files, finding faces, cropping them. numpy and OpenCV only."""

import os

# OpenCV reads both when it is loaded, so they are set here, ahead of every `import cv2` in this package.
# The pixel limit is a backstop behind decode's own check, for a header that two parsers read differently.
# OpenCV's log would only repeat, with its own file names, what decode says in an exception.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
