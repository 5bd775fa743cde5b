"""Reading catalogues: files and frames of many forms in, checked products out."""
