"""File formats of images and label maps, the preview, and atomic writing."""
